package edit

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// at follows keys and indexes from the first document's root.
func at(t *testing.T, f *File, steps ...any) At {
	t.Helper()
	var here At
	n := f.Docs[0]
	for _, step := range steps {
		if i, ok := step.(int); ok {
			here = Children(n)[i]
		} else if here, ok = Entry(n, step.(string)); !ok {
			t.Fatalf("no %v", step)
		}
		n = here.Value()
	}
	return here
}

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestChanges(t *testing.T) {
	insert := func(f *File, n *yaml.Node) { f.Insert(n, "", "new: 1") }
	cases := []struct {
		name, text string
		change     func(*testing.T, *File)
		want       string
	}{
		{"insert above comments of what follows", "a:\n  b: 1\n\n# of c\nc: 2\n",
			func(t *testing.T, f *File) { insert(f, at(t, f, "a").Value()) }, "a:\n  b: 1\n  new: 1\n\n# of c\nc: 2\n"},
		{"insert below a block scalar and all its lines", "a:\n  b: |+\n    x\n    # y\n\nc: 2\n",
			func(t *testing.T, f *File) { insert(f, at(t, f, "a").Value()) }, "a:\n  b: |+\n    x\n    # y\n\n  new: 1\nc: 2\n"},
		{"a comment below a block scalar is none of it", "a:\n  b: |\n    x\n  # of c\n  c: 2\n",
			func(t *testing.T, f *File) { f.Remove(at(t, f, "a", "b")) }, "a:\n  # of c\n  c: 2\n"},
		{"insert before the end of the document", "a: 1\n---\nb: 1\n",
			func(t *testing.T, f *File) { insert(f, f.Docs[0]) }, "a: 1\nnew: 1\n---\nb: 1\n"},
		{"insert into the second document", "a: 1\n--- # two\nb: 1\n...\n",
			func(t *testing.T, f *File) { insert(f, f.Docs[1]) }, "a: 1\n--- # two\nb: 1\nnew: 1\n...\n"},
		{"no last line end", "a: 1",
			func(t *testing.T, f *File) { insert(f, f.Docs[0]) }, "a: 1\nnew: 1"},
		{"insert above an entry and its comment", "a: 1\n\n# of b\nb: 2\n",
			func(t *testing.T, f *File) { f.Insert(f.Docs[0], "b", "new: 1") }, "a: 1\n\nnew: 1\n# of b\nb: 2\n"},
		{"prepend", "a:\n# of x\n- x\n- y\n",
			func(t *testing.T, f *File) { f.Prepend(at(t, f, "a").Value(), "- n: 1\n  m: 2") }, "a:\n- n: 1\n  m: 2\n# of x\n- x\n- y\n"},
		{"append", "a:\n  - x\n  - y: z # last\n# end\n",
			func(t *testing.T, f *File) { f.Append(at(t, f, "a").Value(), "- n: 1\n  m: 2") }, "a:\n  - x\n  - y: z # last\n  - n: 1\n    m: 2\n# end\n"},
		{"the inner collection first", "a:\n  b:\n    c: 1\n",
			func(t *testing.T, f *File) {
				insert(f, f.Docs[0])
				insert(f, at(t, f, "a").Value())
				insert(f, at(t, f, "a", "b").Value())
			}, "a:\n  b:\n    c: 1\n    new: 1\n  new: 1\nnew: 1\n"},
		{"insert where something goes away", "a: 1\nb: 2\n",
			func(t *testing.T, f *File) {
				f.Remove(at(t, f, "b"))
				f.Insert(f.Docs[0], "b", "new: 1")
			}, "a: 1\nnew: 1\n"},
		{"replace keeps what is around", "a: # of a\n- b: {c: 1} # of c\n  d: 2\n",
			func(t *testing.T, f *File) { f.Replace(at(t, f, "a", 0, "b"), "b:\n  e: 1") }, "a: # of a\n- b:\n    e: 1\n  d: 2\n"},
		{"replace an item", "a:\n- {b: 1}\n- c\n",
			func(t *testing.T, f *File) { f.Replace(at(t, f, "a", 0), "- b: 1") }, "a:\n- b: 1\n- c\n"},
		{"remove an item whose dash stands alone", "a:\n  -\n    # of b\n    b: 1\n  -\n    c: 1\n",
			func(t *testing.T, f *File) { f.Remove(at(t, f, "a", 1)) }, "a:\n  -\n    # of b\n    b: 1\n"},
		{"remove the first key of an item", "a:\n- b: 1\n  c: 2\n",
			func(t *testing.T, f *File) { f.Remove(at(t, f, "a", 0, "b")) }, "a:\n- c: 2\n"},
		{"a value over several lines", "a: \"x\n\n  y\"\nb: 1\n",
			func(t *testing.T, f *File) { f.Remove(at(t, f, "a")) }, "b: 1\n"},
		{"other line ends that the parser knows", "a: 1 # x\u2028b: 2\n",
			func(t *testing.T, f *File) { f.Remove(at(t, f, "b")) }, "a: 1 # x\u2028"},
		{"nothing", "\ufeff# only a comment\n", func(*testing.T, *File) {}, "\ufeff# only a comment\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := parse(t, c.text)
			c.change(t, f)
			got, err := f.Bytes()
			if err != nil || string(got) != c.want {
				t.Errorf("got %v\n%s\nwant\n%s", err, got, c.want)
			}
		})
	}
}

func TestTextGoesBack(t *testing.T) {
	text := "a:\n    b: # why\n        c: 1\n\n        # deep\n        d: {e: f}\n    g: 1\n"
	f := parse(t, text)
	b := at(t, f, "a", "b")
	if got, want := f.Text(b), "b: # why\n    c: 1\n\n    # deep\n    d: {e: f}"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.Replace(b, f.Text(b))
	if got, err := f.Bytes(); err != nil || string(got) != text {
		t.Errorf("got %v\n%s", err, got)
	}
}

func TestChangesThatMeet(t *testing.T) {
	f := parse(t, "a:\n  b: 1\n")
	f.Remove(at(t, f, "a"))
	f.Remove(at(t, f, "a", "b"))
	if got, err := f.Bytes(); err == nil {
		t.Errorf("got %q, want an error", got)
	}
}
