// Package edit changes YAML text at chosen places and leaves every other byte
// as it is: comments, order, quotes, blank lines and indentation stay.
//
//	f, err := edit.Parse(text)
//	f.Insert(f.Docs[0], "", "paused", value)
//	text, err = f.Bytes()
//
// The trees of go.yaml.in/yaml/v3 say where things begin; where they end
// follows from what comes next. Changes are collected and applied at once, so
// a tree is never out of date; what must build on a change parses again.
//
// Only collections in block style are changed. What stands in flow style
// ({a: b}, and all JSON) is a value like any other: it can be replaced whole,
// and [Flow] says that something is so.
package edit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is a text of one or more YAML documents and the changes to it.
type File struct {
	// Docs are the roots of the documents. Empty ones are null scalars.
	Docs []*yaml.Node

	text    string
	cut     bool  // the text came without its last line end
	starts  []int // offset of each line, and of the end
	limits  map[*yaml.Node]int
	changes []change
}

// change replaces text[from:to].
type change struct {
	from, to int
	text     string
	depth    int
}

// order sorts changes: where several begin, what is inserted stands before
// what is replaced, and in the inner collection before in the outer.
func (a change) order(b change) int {
	inserts := func(c change) int { return min(c.to-c.from, 1) }
	return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(inserts(a), inserts(b)), cmp.Compare(b.depth, a.depth))
}

// depth is greater for what is further inside. The dashes of a sequence may
// stand under the key that has it, at the indent of the mapping around it.
func depth(n *yaml.Node) int {
	if n.Kind == yaml.SequenceNode {
		return 2*indent(n) + 1
	}
	return 2 * indent(n)
}

// A line ends where the parser says so.
var lineEnd = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

// Parse reads every document of the text.
func Parse(text []byte) (*File, error) {
	f := &File{text: string(text), limits: map[*yaml.Node]int{}}
	if f.cut = f.text != "" && !strings.HasSuffix(f.text, "\n"); f.cut {
		f.text += "\n"
	}
	f.starts = []int{0}
	for _, at := range lineEnd.FindAllStringIndex(f.text, -1) {
		f.starts = append(f.starts, at[1])
	}
	d := yaml.NewDecoder(strings.NewReader(f.text))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		if len(doc.Content) == 0 {
			continue
		}
		root := doc.Content[0]
		f.Docs = append(f.Docs, root)
		f.limit(root, f.documentEnd(root.Line))
	}
}

// line is the text of a line, counted from 0.
func (f *File) line(i int) string { return f.text[f.starts[i]:f.starts[i+1]] }

func (f *File) lines() int { return len(f.starts) - 1 }

// documentEnd is the line after the document that has the given one.
func (f *File) documentEnd(line int) int {
	for i := line; i < f.lines(); i++ {
		word, _, _ := strings.Cut(strings.TrimRight(f.line(i), "\r\n\t "), " ")
		if word == "---" || word == "..." {
			return i
		}
	}
	return f.lines()
}

// limit notes for each entry (by its key) and item below n the line that it
// does not reach.
func (f *File) limit(n *yaml.Node, end int) {
	if Flow(n) {
		return
	}
	for i, at := range Children(n) {
		next := end
		if below := (At{n, i + 1}); i+1 < len(Children(n)) {
			next = f.firstLine(below)
		}
		f.limits[at.name()] = next
		f.limit(at.Value(), next)
	}
}

// At is an entry of a mapping or an item of a sequence.
type At struct {
	Parent *yaml.Node
	index  int
}

// Children are the entries or items of a collection.
func Children(n *yaml.Node) []At {
	count := 0
	switch n.Kind {
	case yaml.MappingNode:
		count = len(n.Content) / 2
	case yaml.SequenceNode:
		count = len(n.Content)
	}
	all := make([]At, count)
	for i := range all {
		all[i] = At{n, i}
	}
	return all
}

// Entry finds the entry with the key.
func Entry(n *yaml.Node, key string) (At, bool) {
	for _, at := range Children(n) {
		if n.Kind == yaml.MappingNode && at.Key() == key {
			return at, true
		}
	}
	return At{}, false
}

// Key is the key of an entry, "" for an item.
func (a At) Key() string {
	if a.Parent.Kind == yaml.MappingNode {
		return a.name().Value
	}
	return ""
}

// Value is the value of an entry, or the item.
func (a At) Value() *yaml.Node {
	if a.Parent.Kind == yaml.MappingNode {
		return a.Parent.Content[2*a.index+1]
	}
	return a.Parent.Content[a.index]
}

// name is the node with which the entry or item begins.
func (a At) name() *yaml.Node {
	if a.Parent.Kind == yaml.MappingNode {
		return a.Parent.Content[2*a.index]
	}
	return a.Parent.Content[a.index]
}

// Flow reports whether n is a collection in flow style, {a: b} or [a, b].
func Flow(n *yaml.Node) bool {
	return n.Kind != yaml.ScalarNode && n.Kind != yaml.AliasNode && n.Style&yaml.FlowStyle != 0
}

// Empty reports whether n is a collection without content, or null.
func Empty(n *yaml.Node) bool {
	return n.Tag == "!!null" || n.Kind != yaml.ScalarNode && n.Kind != yaml.AliasNode && len(n.Content) == 0
}

// firstLine is the line with the key or with the item's dash.
func (f *File) firstLine(a At) int {
	i := a.name().Line - 1
	if a.Parent.Kind == yaml.MappingNode {
		return i
	}
	for i > 0 && !strings.HasPrefix(cutIndent(f.line(i), indent(a.Parent)), "-") {
		i--
	}
	return i
}

// indent is how many columns stand before the children of n.
func indent(n *yaml.Node) int { return max(n.Column-1, 0) }

// cutIndent cuts at most n columns of spaces, or of a sequence's dashes.
func cutIndent(line string, n int) string {
	for n > 0 && line != "" && (line[0] == ' ' || line[0] == '-') {
		line, n = line[1:], n-1
	}
	return line
}

// start is the offset of the key or dash.
func (f *File) start(a At) int {
	line := f.firstLine(a)
	return min(f.starts[line]+indent(a.Parent), f.starts[line+1])
}

// end is the offset after the last line of an entry or item. Blank lines and
// comments below it belong to what comes next.
func (f *File) end(a At) int {
	limit := f.limits[a.name()]
	if leaf, parent := lastLeaf(a); leaf.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return f.starts[f.blockEnd(leaf.Line, indent(parent), limit)]
	}
	for limit > a.name().Line {
		above := strings.TrimSpace(f.line(limit - 1))
		if above != "" && above[0] != '#' {
			break
		}
		limit--
	}
	return f.starts[limit]
}

// lastLeaf is the node with which a ends, and the collection that it is in.
func lastLeaf(a At) (leaf, parent *yaml.Node) {
	for {
		below := Children(a.Value())
		if len(below) == 0 || Flow(a.Value()) {
			return a.Value(), a.Parent
		}
		a = below[len(below)-1]
	}
}

// blockEnd is the line after a block scalar's text, blank lines and what looks
// like a comment in it included.
func (f *File) blockEnd(line, indent, limit int) int {
	for line < limit {
		text := f.line(line)
		if strings.TrimSpace(text) != "" && len(text)-len(strings.TrimLeft(text, " ")) <= indent {
			break
		}
		line++
	}
	return line
}

// Text is the text of an entry or item, dash included, its further lines
// indented from the first.
func (f *File) Text(a At) string {
	lines := strings.SplitAfter(strings.TrimSuffix(f.text[f.start(a):f.end(a)], "\n"), "\n")
	space := strings.Repeat(" ", indent(a.Parent))
	for i := range lines[1:] {
		lines[i+1] = strings.TrimPrefix(lines[i+1], space)
	}
	return strings.Join(lines, "")
}

// Replace puts text, as Text returns it, in the place of an entry or item.
func (f *File) Replace(a At, text string) {
	n := indent(a.Parent)
	f.changes = append(f.changes, change{f.start(a), f.end(a), indented(text, n), depth(a.Parent)})
}

// Remove takes an entry or item away with its lines.
func (f *File) Remove(a At) {
	from, to := f.start(a), f.end(a)
	if strings.TrimSpace(f.text[f.lineStart(a):from]) == "" {
		from = f.lineStart(a)
	} else if next := (At{a.Parent, a.index + 1}); next.index < len(Children(a.Parent)) {
		to = f.start(next) // the dash before the first key stays for the second
	}
	f.changes = append(f.changes, change{from: from, to: to})
}

func (f *File) lineStart(a At) int { return f.starts[f.firstLine(a)] }

// Insert adds an entry to a mapping in block style, above the entry with the
// key before, or at the end.
func (f *File) Insert(m *yaml.Node, before, text string) {
	at, ok := Entry(m, before)
	if !ok {
		f.add(m, f.end(last(m)), text)
		return
	}
	f.add(m, f.starts[f.above(at)], text)
}

// Prepend and Append add an item to a sequence in block style.
func (f *File) Prepend(s *yaml.Node, text string) { f.add(s, f.starts[f.above(At{s, 0})], text) }

// Append is Prepend at the other end.
func (f *File) Append(s *yaml.Node, text string) { f.add(s, f.end(last(s)), text) }

func last(n *yaml.Node) At { return At{n, len(Children(n)) - 1} }

func (f *File) add(parent *yaml.Node, at int, text string) {
	n := indent(parent)
	f.changes = append(f.changes, change{at, at, strings.Repeat(" ", n) + indented(text, n), depth(parent)})
}

// above is the first line of the comment that stands over a, or a's own.
func (f *File) above(a At) int {
	line := f.firstLine(a)
	for line > 0 && strings.HasPrefix(strings.TrimSpace(f.line(line-1)), "#") {
		line--
	}
	return line
}

// indented adds n spaces before each line but the first, and a last line end.
func indented(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if i > 0 && line != "\n" && line != "" {
			lines[i] = strings.Repeat(" ", n) + line
		}
	}
	return strings.Join(lines, "") + "\n"
}

// Bytes is the text with all changes, or why they can't be made together.
func (f *File) Bytes() ([]byte, error) {
	slices.SortStableFunc(f.changes, change.order)
	var out bytes.Buffer
	at := 0
	for _, c := range f.changes {
		if c.from < at || c.to < c.from {
			return nil, fmt.Errorf("two changes meet in line %d", f.lineOf(c.from))
		}
		out.WriteString(f.text[at:c.from])
		out.WriteString(c.text)
		at = c.to
	}
	out.WriteString(f.text[at:])
	text := out.Bytes()
	if f.cut {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	return text, nil
}

func (f *File) lineOf(offset int) int {
	line, _ := slices.BinarySearch(f.starts, offset+1)
	return line
}

// Render writes a value as YAML in block style; compact puts the dashes of a
// sequence under its key and not two columns to the right.
func Render(value any, compact bool) (string, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if compact {
		e.CompactSeqIndent()
	}
	err := errors.Join(e.Encode(value), e.Close())
	return strings.TrimSuffix(out.String(), "\n"), err
}

// Column is where the key or dash stands, counted from 1.
func (a At) Column() int { return a.Parent.Column }
