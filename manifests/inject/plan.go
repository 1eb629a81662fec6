package inject

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
)

// plan is what is done to one object.
type plan struct {
	object *object
	tasks  []task
	record record
	status *yaml.Node // the annotation's value, known when all else is
}

// sign plans the status annotation, as the last task.
func (p *plan) sign() {
	p.status = edit.Value("")
	p.put(p.object.template().to("metadata", "annotations"), StatusAnnotation, p.status)
}

// task adds to the collection at a path, which is made where it is missing:
// either an entry, in the place of the one with the key old if that is there,
// or items.
type task struct {
	in       path
	key, old string
	value    *yaml.Node
	items    []*yaml.Node
	first    bool // the items stand above those that are there
}

// put plans an entry.
func (p *plan) put(in path, key string, value any) { p.swap(in, key, key, value) }

// swap plans an entry in the place of another.
func (p *plan) swap(in path, old, key string, value any) {
	p.tasks = append(p.tasks, task{in: in, key: key, old: old, value: edit.Value(value)})
}

// content is what the task adds, as a collection.
func (t *task) content() *yaml.Node {
	if t.key != "" {
		return edit.Map(t.key, t.value)
	}
	return &yaml.Node{Kind: yaml.SequenceNode, Content: t.items}
}

// adds are the paths of what the task adds.
func (t *task) adds() []string {
	if t.key != "" {
		return []string{t.in.to(t.key).String()}
	}
	var all []string
	for _, item := range t.items {
		name, _ := edit.Entry(item, "name")
		all = append(all, t.in.to(name.Value().Value).String())
	}
	return all
}

// writer does plans in a file.
type writer struct {
	file    *edit.File
	compact bool // the dashes of sequences stand under their key
}

// unfold rewrites in block style what stands in flow style where a task must
// get in, and notes how it was written.
func (w *writer) unfold(p *plan) (changed bool, err error) {
	var errs []error
	for i := range p.tasks {
		at, where, ok := flowOn(p.object.root, p.tasks[i].in)
		if !ok {
			continue
		}
		changed = true
		p.record.Style[where.String()] = w.file.Text(at)
		unflow(at.Value())
		errs = append(errs, w.replace(at, at.Key(), at.Value()))
	}
	return changed, errors.Join(errs...)
}

// flowOn finds the first collection in flow style on the way to a path.
func flowOn(root *yaml.Node, p path) (edit.At, path, bool) {
	for i := range p {
		at, ok := p[:i+1].find(root)
		if !ok || edit.Empty(at.Value()) {
			break
		}
		if edit.Flow(at.Value()) {
			return at, p[:i+1], true
		}
	}
	return edit.At{}, nil, false
}

func unflow(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	for _, below := range n.Content {
		unflow(below)
	}
}

// write does the tasks of a plan, completes its record and writes that too.
func (w *writer) write(p *plan) error {
	var writes []func() error
	for i := range p.tasks {
		writes = append(writes, w.prepare(p, &p.tasks[i]))
	}
	text, err := p.record.encode()
	*p.status = *edit.Value(text)
	for _, write := range writes {
		err = errors.Join(err, write())
	}
	return err
}

// prepare notes in the record what a task does and returns how to do it.
func (w *writer) prepare(p *plan, t *task) func() error {
	n := p.object.root
	for i, key := range t.in {
		at, ok := step(n, key)
		if !ok || edit.Empty(at.Value()) {
			return w.prepareMissing(p, t, n, i)
		}
		n = at.Value()
	}
	at, ok := edit.Entry(n, t.old)
	if ok && t.key != "" {
		now, err := w.render(t.value)
		p.record.Replaced[t.in.to(t.key).String()] = swapped{Was: w.file.Text(at), Now: now}
		return func() error { return errors.Join(err, w.replace(at, t.key, t.value)) }
	}
	p.record.Added = append(p.record.Added, t.adds()...)
	if t.key != "" {
		return func() error { return w.insert(n, t.key, t.value) }
	}
	return func() error { return w.addItems(n, t) }
}

// prepareMissing prepares a task of whose path only n and above is there: the
// i-th step is missing or empty.
func (w *writer) prepareMissing(p *plan, t *task, n *yaml.Node, i int) func() error {
	p.record.Added = append(p.record.Added, t.adds()...)
	value := t.content()
	for j := len(t.in) - 1; j > i; j-- {
		p.record.Made[t.in[:j+1].String()] = ""
		value = edit.Map(t.in[j], value)
	}
	at, ok := step(n, t.in[i])
	if !ok {
		p.record.Made[t.in[:i+1].String()] = ""
		return func() error { return w.insert(n, t.in[i], value) }
	}
	p.record.Made[t.in[:i+1].String()] = w.file.Text(at)
	return func() error { return w.replace(at, t.in[i], value) }
}

func (w *writer) addItems(seq *yaml.Node, t *task) error {
	if seq.Kind != yaml.SequenceNode {
		return fmt.Errorf("%s is no list", t.in)
	}
	text, err := w.render(t.content())
	if t.first {
		w.file.Prepend(seq, text)
	} else {
		w.file.Append(seq, text)
	}
	return err
}

// above are the keys that new entries stand above.
var above = map[string]string{"initContainers": "containers", "metadata": "spec"}

func (w *writer) insert(n *yaml.Node, key string, value *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s can't be added to what is no mapping", n.Line, key)
	}
	text, err := w.render(edit.Map(key, value))
	w.file.Insert(n, above[key], text)
	return err
}

// replace writes another entry, or item if it has no key, in the place of one.
func (w *writer) replace(at edit.At, key string, value *yaml.Node) error {
	text, err := w.render(whole(key, value))
	w.file.Replace(at, text)
	return err
}

// whole is the entry, or the item if it has no key, as a collection of one.
func whole(key string, value *yaml.Node) *yaml.Node {
	if key == "" {
		return edit.List(value)
	}
	return edit.Map(key, value)
}

func (w *writer) render(n *yaml.Node) (string, error) { return edit.Render(n, w.compact) }
