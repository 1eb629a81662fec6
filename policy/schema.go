package policy

import (
	"encoding/json"
	"reflect"
)

// Schema is the JSON Schema (draft 2020-12) of policy files, for editors. It
// is made of the types that files are read into.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[document](), "version", "rules")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Sidegate policy"
	s["properties"].(schema)["version"].(schema)["const"] = 1
	s["properties"].(schema)["paths_case"].(schema)["const"] = pathsDistinct
	rule := s["properties"].(schema)["rules"].(schema)["items"].(schema)
	rule["properties"].(schema)["name"].(schema)["type"] = "string"
	rule["required"] = []string{"name"}
	// A rule says allow, or peer or user, or deny: true.
	rule["anyOf"] = []schema{{"required": []string{"peer"}}, {"required": []string{"user"}}, {"required": []string{"allow"}}, {"required": []string{"deny"}}}
	text, err := json.MarshalIndent(s, "", "  ")
	return append(text, '\n'), err
}

type schema = map[string]any

// schemaOf describes a struct of a document.
func schemaOf(t reflect.Type, required ...string) schema {
	properties := schema{}
	for f := range t.Fields() {
		if key := f.Tag.Get("yaml"); key != "" {
			s := schemaOfValue(f.Type)
			s["description"] = f.Tag.Get("doc")
			properties[key] = s
		}
	}
	s := schema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func schemaOfValue(t reflect.Type) schema {
	switch t {
	case reflect.TypeFor[located]():
		return schema{}
	case reflect.TypeFor[flag]():
		return schema{"type": "boolean"}
	case reflect.TypeFor[[]located]():
		return schemaOfWords()
	case reflect.TypeFor[map[string]located]():
		return schema{"type": "object", "additionalProperties": schemaOfWords()}
	}
	return schema{"type": "array", "minItems": 1, "items": schemaOf(t.Elem())}
}

func schemaOfWords() schema {
	return schema{"type": "array", "minItems": 1, "uniqueItems": true, "items": schema{"type": "string", "minLength": 1}}
}
