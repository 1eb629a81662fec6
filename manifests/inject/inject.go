package inject

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"time"

	"sidegate/manifests/edit"
)

// Result is the new text and what the user should know about it.
type Result struct {
	Text  []byte
	Notes []string
}

// Inject returns the text with the sidecar in each workload of it. The file's
// name is for errors.
func Inject(file string, text []byte, o Options) (*Result, error) {
	o.DrainDelay = cmp.Or(o.DrainDelay, 5*time.Second)
	clean, err := Remove(file, text)
	if err != nil {
		return nil, err
	}
	ends := lineEnds(clean)
	result, err := inject(file, ends.cut(clean), o)
	if err != nil {
		return nil, err
	}
	result.Text = ends.restore(result.Text)
	return result, checkInverse(file, clean, result.Text)
}

func inject(file string, text []byte, o Options) (*Result, error) {
	f, all, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	plans, notes, err := planAll(file, all, o)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		p.sign()
	}
	f, err = unfoldAll(file, f, plans)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		w := &writer{f, p.object.compact()}
		if err := w.write(p); err != nil {
			return nil, problem{file, *p.object, err}
		}
	}
	f, all, err = again(file, f)
	if err != nil {
		return nil, err
	}
	if err := checkDone(file, all, plans); err != nil {
		return nil, err
	}
	text, err = f.Bytes()
	return &Result{text, notes}, err
}

// checkDone returns an error if something did not get to its place.
func checkDone(file string, all []*object, plans []*plan) error {
	for _, p := range plans {
		x := p.object.in(all)
		for _, at := range p.record.Added {
			if _, ok := parsePath(at).find(x.root); !ok {
				return problem{file, *p.object, fmt.Errorf("%s %w", at, errOdd)}
			}
		}
	}
	return nil
}

// errOdd is for YAML that the parser reads and we edit wrongly.
var errOdd = errors.New("can't be edited as this YAML is written; print it with kubectl create --dry-run=client -o yaml first")

// in finds the same object in another tree of the text.
func (o *object) in(all []*object) *object {
	for _, x := range all {
		if x.document == o.document && x.item == o.item {
			return x
		}
	}
	return o
}

func parse(file string, text []byte) (*edit.File, []*object, error) {
	f, err := edit.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	all, err := objects(file, f)
	return f, all, err
}

// planAll plans the workloads, and then the Services that lead to them.
func planAll(file string, all []*object, o Options) ([]*plan, []string, error) {
	var plans []*plan
	var notes []string
	var errs []error
	var backends []*backend
	workloads := 0
	for _, x := range all {
		if !x.isWorkload() {
			continue
		}
		workloads++
		p, b, err := planWorkload(x, o)
		if err != nil {
			errs = append(errs, each(file, x, err)...)
			continue
		}
		backends = append(backends, b)
		if p != nil {
			plans = append(plans, p)
			notes = append(notes, b.notes(file)...)
		}
	}
	if workloads == 0 && len(errs) == 0 {
		return nil, nil, fmt.Errorf("%s: no Deployment, StatefulSet, DaemonSet, Job, CronJob or Pod in it", file)
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	more, unserved, err := planServices(file, all, backends)
	return append(plans, more...), append(notes, unserved...), err
}

// each makes a problem of each of several joined errors.
func each(file string, o *object, err error) []error {
	all := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		all = many.Unwrap()
	}
	for i := range all {
		all[i] = problem{file, *o, all[i]}
	}
	return all
}

func planServices(file string, all []*object, backends []*backend) ([]*plan, []string, error) {
	var plans []*plan
	var notes []string
	var errs []error
	served := map[*backend]bool{}
	for _, x := range all {
		if !x.isService() {
			continue
		}
		p, more, err := planService(file, x, backends, served)
		notes = append(notes, more...)
		if err != nil {
			errs = append(errs, each(file, x, err)...)
		} else if len(p.tasks) > 0 {
			plans = append(plans, p)
		}
	}
	for _, b := range backends {
		if b.port != 0 && !served[b] {
			notes = append(notes, note(file, b.object, "no Service here leads to port %d; point the targetPort of those elsewhere to %d", b.app.number, b.port))
		}
	}
	return plans, notes, errors.Join(errs...)
}

// unfoldAll puts in block style what must be, and parses again if that
// changed something.
func unfoldAll(file string, f *edit.File, plans []*plan) (*edit.File, error) {
	changed := false
	for _, p := range plans {
		w := &writer{f, p.object.compact()}
		did, err := w.unfold(p)
		if err != nil {
			return nil, problem{file, *p.object, err}
		}
		changed = changed || did
	}
	if !changed {
		return f, nil
	}
	f, all, err := again(file, f)
	for _, p := range plans {
		p.object = p.object.in(all)
	}
	return f, err
}

// compact reports whether the object's list of containers stands under its key.
func (o *object) compact() bool {
	at, ok := o.template().to("spec", "containers").find(o.root)
	return ok && at.Value().Column == at.Column()
}

// Remove returns the text without what [Inject] added.
func Remove(file string, text []byte) ([]byte, error) {
	ends := lineEnds(text)
	f, all, err := parse(file, ends.cut(text))
	if err != nil {
		return nil, err
	}
	records := make([]*record, len(all))
	for i, x := range all {
		if records[i], err = x.readRecord(); err != nil {
			return nil, problem{file, *x, err}
		}
		if records[i] != nil {
			undoContent(f, x, records[i])
		}
	}
	f, all, err = again(file, f)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		if r != nil {
			undoStyle(f, all[i], r)
		}
	}
	out, err := f.Bytes()
	return ends.restore(out), err
}

// again parses the text as changed so far. The objects in it are the same.
func again(file string, f *edit.File) (*edit.File, []*object, error) {
	text, err := f.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return parse(file, text)
}

// checkInverse returns an error if Remove would not give back what was there:
// the bytes, or where the formatting is too odd for that, the same objects.
func checkInverse(file string, before, after []byte) error {
	back, err := Remove(file, after)
	if err != nil || bytes.Equal(before, back) {
		return err
	}
	_, was, err := parse(file, before)
	if err != nil {
		return err
	}
	_, is, err := parse(file, back)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", file, errOdd, err)
	}
	for _, x := range was {
		if !sameValue(x.root, x.in(is).root) {
			return problem{file, *x, errOdd}
		}
	}
	return nil
}

// lineEnd is how lines end in a text.
type lineEnd string

func lineEnds(text []byte) lineEnd {
	if crlf := bytes.Count(text, []byte("\r\n")); crlf > 0 && crlf == bytes.Count(text, []byte("\n")) {
		return "\r\n"
	}
	return "\n"
}

// cut makes every line end a plain one, restore the opposite.
func (l lineEnd) cut(text []byte) []byte { return bytes.ReplaceAll(text, []byte(l), []byte("\n")) }

func (l lineEnd) restore(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\n"), []byte(l)) }
