package inject

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
)

// record is the status annotation: what was done to an object. Paths are JSON
// pointers from the object's root, texts are YAML.
type record struct {
	Version string `json:"version,omitempty"`
	// Config is a hash of all that was injected.
	Config string `json:"config,omitempty"`
	// Added are the entries and items that are wholly ours.
	Added []string `json:"added,omitempty"`
	// Made are the collections around them: what to write when nothing else is
	// in them any more, "" for nothing.
	Made map[string]string `json:"made,omitempty"`
	// Replaced are the application's entries that ours stand for.
	Replaced map[string]swapped `json:"replaced,omitempty"`
	// Style is how entries were written that are now in block style.
	Style map[string]string `json:"style,omitempty"`
}

// swapped is the whole entry as it was and the value that it has now.
type swapped struct {
	Was string `json:"was"`
	Now string `json:"now"`
}

func newRecord() record {
	return record{Made: map[string]string{}, Replaced: map[string]swapped{}, Style: map[string]string{}}
}

// readRecord reads the status annotation of an object, if it has one.
func (o *object) readRecord() (*record, error) {
	at, ok := o.status().find(o.root)
	if !ok {
		return nil, nil
	}
	r := newRecord()
	if err := json.Unmarshal([]byte(at.Value().Value), &r); err != nil {
		return nil, fmt.Errorf("annotation %s: %w; restore it, or take it and the sidecar away by hand", StatusAnnotation, err)
	}
	return &r, nil
}

// encode is the record as the annotation has it.
func (r *record) encode() (string, error) {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(r)
	return strings.TrimSpace(out.String()), err
}

// undo collects the changes that take an injection back.
type undo struct {
	file   *edit.File
	root   *yaml.Node
	gone   map[*yaml.Node]bool
	texts  map[*yaml.Node]string
	record *record
}

// undoContent takes away what was added and puts back what was replaced. How
// things were written comes after, when that can be compared.
func undoContent(f *edit.File, o *object, r *record) {
	u := &undo{file: f, root: o.root, gone: map[*yaml.Node]bool{}, texts: map[*yaml.Node]string{}, record: r}
	for _, p := range r.Added {
		if at, ok := parsePath(p).find(o.root); ok {
			u.gone[at.Value()] = true
		}
	}
	for p, s := range r.Replaced {
		if at, ok := parsePath(p).find(o.root); ok && covers(at.Value(), s.Now) {
			u.texts[at.Value()] = s.Was
		}
	}
	u.emptied()
	u.apply(o.root)
}

// emptied finds the collections that hold nothing but what goes away, the
// deepest first.
func (u *undo) emptied() {
	deepest := func(a, b string) int { return cmp.Compare(len(parsePath(b)), len(parsePath(a))) }
	for _, p := range slices.SortedFunc(maps.Keys(u.record.Made), deepest) {
		at, ok := parsePath(p).find(u.root)
		if !ok || slices.ContainsFunc(edit.Children(at.Value()), func(below edit.At) bool { return !u.gone[below.Value()] }) {
			continue
		}
		if text := u.record.Made[p]; text != "" {
			u.texts[at.Value()] = text
		} else {
			u.gone[at.Value()] = true
		}
	}
}

func (u *undo) apply(n *yaml.Node) {
	for _, at := range edit.Children(n) {
		text, replaced := u.texts[at.Value()]
		switch {
		case u.gone[at.Value()]:
			u.file.Remove(at)
		case replaced:
			u.file.Replace(at, text)
		default:
			u.apply(at.Value())
		}
	}
}

// undoStyle puts entries back as they were written where they say the same
// still.
func undoStyle(f *edit.File, o *object, r *record) {
	for p, text := range r.Style {
		at, ok := parsePath(p).find(o.root)
		if !ok {
			continue
		}
		var was yaml.Node
		if err := yaml.Unmarshal([]byte(text), &was); err == nil && sameValue(whole(at.Key(), at.Value()), &was) {
			f.Replace(at, text)
		}
	}
}

func sameValue(a, b *yaml.Node) bool {
	var x, y any
	err := errors.Join(a.Decode(&x), b.Decode(&y))
	return err == nil && reflect.DeepEqual(x, y)
}

// covers reports whether n says all that the text says; a cluster adds
// defaults to it.
func covers(n *yaml.Node, text string) bool {
	var has, want any
	if err := errors.Join(n.Decode(&has), yaml.Unmarshal([]byte(text), &want)); err != nil {
		return false
	}
	m, ok := want.(map[string]any)
	h, both := has.(map[string]any)
	if !ok || !both {
		return reflect.DeepEqual(has, want)
	}
	for key, value := range m {
		if !reflect.DeepEqual(h[key], value) {
			return false
		}
	}
	return true
}
