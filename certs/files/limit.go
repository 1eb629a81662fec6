package files

import (
	"fmt"
	"path/filepath"
)

const (
	maxFile = 1 << 20  // what fits into a Secret
	maxCRL  = 16 << 20 // the CRL of a large CA may come by another way
)

// Limit is how many bytes of one kind may be read, which is less than what fits
// into a Secret (1 MiB; CRLs: 16 MiB). The zero value is that.
type Limit struct {
	Bytes int64  // 0: no less
	Of    string // what else they would not fit into, and what to do
}

// within is the limit, of something that may never have more than that.
func (l Limit) within(absolute int64) Limit {
	if l.Bytes <= 0 || l.Bytes >= absolute {
		return Limit{Bytes: absolute}
	}
	return l
}

// check refuses so many bytes with the figure; who is it that has them.
func (l Limit) check(who string, size int64) error {
	switch {
	case size <= l.Bytes:
		return nil
	case l.Of != "":
		return fmt.Errorf("%s %s; %s fit into %s", who, Size(size), Size(l.Bytes), l.Of)
	}
	return fmt.Errorf("%s %s, more than %s", who, Size(size), Size(l.Bytes))
}

// Size is a number of bytes as a person reads it.
func Size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// quota is what the files of one folder may have: each by itself, the CRLs among
// them together, and those together that are of no kind that their names tell.
type quota struct {
	crls, others, rest Limit
	ofCRLs, ofRest     int64 // taken
}

func (l Limit) quota() *quota { return newQuota(l, l) }

func newQuota(crls, others Limit) *quota {
	return &quota{crls: crls.within(maxCRL), others: others.within(maxFile), rest: others.within(maxCRL)}
}

// read reads a regular file that fits.
func (q *quota) read(path string) ([]byte, error) {
	name := filepath.Base(path)
	_, isBundle := trustDomainOf(name)
	switch {
	case IsCRL(name):
		return q.share(path, q.crls, "CRLs", &q.ofCRLs)
	case isPair(name) || IsCA(name) || isBundle:
		return readFile(path, q.others, "it has", 0)
	case q.ofRest+q.others.Bytes > q.rest.Bytes:
		return q.share(path, q.rest, "files", &q.ofRest)
	}
	data, err := readFile(path, q.others, "it has", 0)
	q.ofRest += int64(len(data))
	return data, err
}

// share reads a file that has a limit together with others.
func (q *quota) share(path string, limit Limit, others string, taken *int64) ([]byte, error) {
	who := "it has"
	if *taken > 0 {
		who = "it and the " + others + " beside it have"
	}
	data, err := readFile(path, limit, who, *taken)
	*taken += int64(len(data))
	return data, err
}
