package inject

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
)

// path leads from an object to a place in it: keys of mappings, and for items
// of sequences their name, or their index where they have none.
type path []string

// to is the path of a place below.
func (p path) to(steps ...string) path { return slices.Concat(p, steps) }

var escape, unescape = strings.NewReplacer("~", "~0", "/", "~1"), strings.NewReplacer("~1", "/", "~0", "~")

// String is the path as a JSON pointer.
func (p path) String() string {
	var s strings.Builder
	for _, step := range p {
		s.WriteString("/" + escape.Replace(step))
	}
	return s.String()
}

func parsePath(s string) path {
	steps := strings.Split(strings.TrimPrefix(s, "/"), "/")
	for i := range steps {
		steps[i] = unescape.Replace(steps[i])
	}
	return steps
}

// find returns the place that p leads to.
func (p path) find(root *yaml.Node) (edit.At, bool) {
	var at edit.At
	ok := false
	for _, key := range p {
		if at, ok = step(root, key); !ok {
			return at, false
		}
		root = at.Value()
	}
	return at, ok
}

func step(n *yaml.Node, key string) (edit.At, bool) {
	if n.Kind != yaml.SequenceNode {
		return edit.Entry(n, key)
	}
	items := edit.Children(n)
	for _, item := range items {
		if name, ok := edit.Entry(item.Value(), "name"); ok && name.Value().Value == key {
			return item, true
		}
	}
	if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(items) {
		return items[i], true
	}
	return edit.At{}, false
}
