package edit

import "go.yaml.in/yaml/v3"

// Map is a mapping of keys and values in this order.
func Map(pairs ...any) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(pairs); i += 2 {
		m.Content = append(m.Content, Value(pairs[i]), Value(pairs[i+1]))
	}
	return m
}

// List is a sequence of values.
func List(values ...any) *yaml.Node {
	s := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range values {
		s.Content = append(s.Content, Value(v))
	}
	return s
}

// Value is the node of a string, number, truth value or node.
func Value(v any) *yaml.Node {
	if n, ok := v.(*yaml.Node); ok {
		return n
	}
	n := new(yaml.Node)
	if err := n.Encode(v); err != nil {
		panic(err) // a programmer's value, never input
	}
	return n
}
