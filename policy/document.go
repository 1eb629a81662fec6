package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is a policy file as it is written. Its fields, in their order, are
// the keys of the file; doc is what editors show, see [Schema].
type document struct {
	Version   located            `yaml:"version" doc:"Always 1."`
	Audit     flag               `yaml:"audit" doc:"true lets every refusal of a rule pass, and logs and counts it."`
	PathsCase located            `yaml:"paths_case" doc:"distinct: the application tells /A from /a. Default: it may not, so the same rule must decide about both."`
	Sets      map[string]located `yaml:"sets" doc:"Local names for principals: set:NAME."`
	Rules     []ruleText         `yaml:"rules" doc:"The first rule that a request selects decides. Where none is selected, the answer is no."`
}

// ruleText is a rule as it is written.
type ruleText struct {
	Name      located      `yaml:"name" doc:"What the log calls the rule."`
	Gates     []located    `yaml:"gates" doc:"Names of gates. Default: every gate."`
	Hosts     []located    `yaml:"hosts" doc:"Names, or *.example.org for one more label. Default: any."`
	Methods   []located    `yaml:"methods" doc:"HTTP methods; GET includes HEAD. Default: any."`
	Paths     []located    `yaml:"paths" doc:"/a also covers /a/; /a/** covers /a and all below; * stays within a segment. Default: any."`
	Networks  []located    `yaml:"networks" doc:"Addresses or CIDR networks of the client. A client whose address is unknown is in none of them, and under every rule that denies. Default: any."`
	Preflight flag         `yaml:"preflight" doc:"true selects CORS preflights alone, which carry no credentials."`
	Peer      []located    `yaml:"peer" doc:"Client certificates, any one of them: spiffe://…, dns:, uri:, email:, subject:, cn:, set:, any."`
	User      []located    `yaml:"user" doc:"Users, any one of them: user:, group:, email:, serviceaccount:, issuer:, set:, authenticated, anyone."`
	Allow     []demandText `yaml:"allow" doc:"Alternatives, any one of which suffices."`
	Deny      flag         `yaml:"deny" doc:"true refuses whatever the rule selects; there peer and user select too."`
	Audit     flag         `yaml:"audit" doc:"true lets the refusal of this rule pass, and logs and counts it."`

	at position
}

// demandText is one of several ways to satisfy a rule.
type demandText struct {
	Peer []located `yaml:"peer" doc:"Client certificates, any one of them."`
	User []located `yaml:"user" doc:"Users, any one of them."`

	at position
}

// located is a word, or a list of words under a name, and where it stands.
type located struct {
	text string
	list []located
	at   position
}

// flag is true or false, and where that stands.
type flag struct {
	on bool
	at position
}

// position is a line and column, counted from 1; zero: nowhere.
type position struct{ line, column int }

// problem is a fault of a policy file.
type problem struct {
	at   position
	text string
}

// problems collects all faults of a file.
type problems struct {
	file string
	list []problem
	more int // that are not in the list
}

// maxProblems bounds what is told of a file, which goes to the log.
const maxProblems = 100

func (p *problems) add(at position, format string, args ...any) {
	if len(p.list) == maxProblems {
		p.more++
		return
	}
	p.list = append(p.list, problem{at, fmt.Sprintf(format, args...)})
}

// err is every problem in the order of the file, or nil.
func (p *problems) err() error {
	slices.SortStableFunc(p.list, func(a, b problem) int {
		if a.at.line != b.at.line {
			return a.at.line - b.at.line
		}
		return a.at.column - b.at.column
	})
	var errs []error
	for _, x := range p.list {
		errs = append(errs, fmt.Errorf("%s:%d:%d: %s", p.file, x.at.line, x.at.column, x.text))
	}
	if p.more > 0 {
		errs = append(errs, fmt.Errorf("%s: %d more problems", p.file, p.more))
	}
	return errors.Join(errs...)
}

// parse reads a policy file as it is written. What it can't understand it adds
// to the problems.
func (p *problems) parse(text []byte) *document {
	var doc document
	d := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	err := d.Decode(&root)
	switch {
	case errors.Is(err, io.EOF) || err == nil && isNull(root.Content[0]):
		p.add(position{1, 1}, "the file is empty; a policy begins with version: 1")
		return &doc
	case err != nil:
		p.syntax(err)
		return &doc
	}
	var more yaml.Node
	if err := d.Decode(&more); err == nil {
		p.add(positionOf(&more), "a second document; a policy is one")
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
	}
	if a := aliasIn(&root); a != nil {
		p.add(positionOf(a), "anchors and aliases are not read here; give principals a name under sets")
		return &doc
	}
	p.decode(root.Content[0], reflect.ValueOf(&doc).Elem(), "the file")
	return &doc
}

var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax adds an error of the YAML library, which knows the line.
func (p *problems) syntax(err error) {
	at, text := position{1, 1}, err.Error()
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.line = line
		}
		text = m[2]
	}
	p.add(at, "no YAML: %s", text)
}

func positionOf(n *yaml.Node) position { return position{max(n.Line, 1), max(n.Column, 1)} }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// aliasIn finds an anchor or alias.
func aliasIn(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return n
	}
	for _, below := range n.Content {
		if a := aliasIn(below); a != nil {
			return a
		}
	}
	return nil
}

// decode reads n into a field of a document; what names it in errors.
func (p *problems) decode(n *yaml.Node, into reflect.Value, what string) {
	switch v := into.Addr().Interface().(type) {
	case *located:
		*v = p.word(n, what)
	case *[]located:
		*v = p.words(n, what)
	case *flag:
		*v = p.flag(n, what)
	case *map[string]located:
		*v = p.sets(n, what)
	default:
		p.decodeNested(n, into, what)
	}
}

// decodeNested reads a list of structs, or a struct.
func (p *problems) decodeNested(n *yaml.Node, into reflect.Value, what string) {
	if into.Kind() == reflect.Struct {
		p.fields(n, into, what)
		return
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.add(positionOf(n), "%s must be a list with something in it", what)
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		p.fields(item, into.Index(i), "an entry of "+what)
	}
}

// fields reads a mapping into a struct.
func (p *problems) fields(n *yaml.Node, into reflect.Value, what string) {
	if n.Kind != yaml.MappingNode {
		p.add(positionOf(n), "%s must be a mapping of %s", what, strings.Join(keysOf(into.Type()), ", "))
		return
	}
	switch v := into.Addr().Interface().(type) {
	case *ruleText:
		v.at = positionOf(n)
	case *demandText:
		v.at = positionOf(n)
	}
	p.entries(n, func(key, value *yaml.Node) {
		i := slices.Index(keysOf(into.Type()), key.Value)
		if i < 0 {
			p.add(positionOf(key), "%q is none of %s%s", key.Value, strings.Join(keysOf(into.Type()), ", "), meant(key.Value, keysOf(into.Type())))
			return
		}
		p.decode(value, into.Field(i), key.Value)
	})
}

// entries calls do for each entry of a mapping; one that is repeated is a
// problem.
func (p *problems) entries(n *yaml.Node, do func(key, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if line, again := seen[key.Value]; again {
			p.add(positionOf(key), "%q was in line %d already", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		do(key, n.Content[i+1])
	}
}

// keysOf are the keys that a struct stands for, in the order of its fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range t.Fields() {
		if key := f.Tag.Get("yaml"); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

func meant(word string, words []string) string {
	if near := Nearest(word, words); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// word is a scalar.
func (p *problems) word(n *yaml.Node, what string) located {
	if n.Kind != yaml.ScalarNode || isNull(n) || n.Value == "" {
		p.add(positionOf(n), "%s must be a word", what)
	}
	return located{text: n.Value, at: positionOf(n)}
}

// words is a list of scalars.
func (p *problems) words(n *yaml.Node, what string) []located {
	if n.Kind != yaml.SequenceNode {
		p.add(positionOf(n), "%s must be a list: [%s]", what, n.Value)
		return nil
	}
	if len(n.Content) == 0 {
		p.add(positionOf(n), "%s is an empty list, which nothing can be in; leave it out if anything may", what)
	}
	list := make([]located, 0, len(n.Content))
	known := make(map[string]bool, len(n.Content))
	for _, item := range n.Content {
		w := p.word(item, "an entry of "+what)
		if known[w.text] {
			p.add(w.at, "%q is in the list twice", w.text)
		}
		known[w.text] = true
		list = append(list, w)
	}
	return list
}

// flag is true or false, spelled so: YAML's other spellings of them (True, TRUE)
// must not pass for false.
func (p *problems) flag(n *yaml.Node, what string) flag {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
		p.add(positionOf(n), "%s must be true or false", what)
	}
	return flag{n.Value == "true", positionOf(n)}
}

// sets is a mapping from names to lists of scalars.
func (p *problems) sets(n *yaml.Node, what string) map[string]located {
	if n.Kind != yaml.MappingNode {
		p.add(positionOf(n), "%s must be a mapping from names to lists of principals", what)
		return nil
	}
	sets := map[string]located{}
	p.entries(n, func(key, value *yaml.Node) {
		if key.Value == "" || strings.ContainsAny(key.Value, " \t/*") {
			p.add(positionOf(key), "%q can't be the name of a set", key.Value)
		}
		sets[key.Value] = located{text: key.Value, list: p.words(value, key.Value), at: positionOf(key)}
	})
	return sets
}
