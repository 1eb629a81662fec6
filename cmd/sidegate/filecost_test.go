package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/certs/files"
	"sidegate/policy"
	"sidegate/policy/authn"
)

// heapNow is how many bytes the objects of the heap have.
func heapNow() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// costOf is by how much the heap grows at most while load runs, with a collector
// that runs all the time, as it does near a memory limit, and what stays of it
// as long as what was loaded does.
func costOf(load func() any) (peak, kept int64) {
	defer debug.SetGCPercent(debug.SetGCPercent(2))
	runtime.GC()
	runtime.GC() // the first one may end what had begun
	before, ended, most := heapNow(), make(chan struct{}), make(chan int64)
	go func() {
		seen := int64(0)
		for {
			select {
			case <-ended:
				most <- seen
				return
			case <-time.After(100 * time.Microsecond):
				seen = max(seen, heapNow())
			}
		}
	}()
	loaded := load()
	close(ended)
	peak = <-most - before
	runtime.GC()
	kept = heapNow() - before
	runtime.KeepAlive(loaded)
	return peak, kept
}

// largeFile is a file of a kind that is loaded from its folder.
type largeFile struct {
	name string
	data []byte
	load func(tb testing.TB, path string) any
}

// largeFiles are files of that size, with the shortest entries, which cost most.
func largeFiles(tb testing.TB, size int) []largeFile {
	der := largeCRL(tb, size/34)
	return []largeFile{
		{"ca.crl", der, loadCAs},
		{"crl.pem", certstest.PEM("X509 CRL", der), loadCAs},
		{"bundle.example.org.pem", repeated(size, "", func(i int) string { return string(certstest.NewCA(tb, fmt.Sprintf("ca %d", i)).PEM()) }), loadCAs},
		{"htpasswd", repeated(size, "", func(i int) string { return fmt.Sprintf("u%d:{SHA}hNGvzYtXBTYNMwbYHrCSBIqGRBk=\n", i) }), loadUserFile},
		{"paths.yaml", repeated(size, "version: 1\nrules:\n- name: one\n  user: [anyone]\n  paths:\n", func(i int) string { return fmt.Sprintf("  - /%d\n", i) }), loadPolicyFile},
		{"inline.yaml", append(repeated(size, "version: 1\nrules:\n- {name: one, user: [anyone], paths: [/a", func(i int) string { return fmt.Sprintf(",/%d", i) }), "]}"...), loadPolicyFile},
		{"principals.yaml", repeated(size, "version: 1\nrules:\n- name: one\n  user:\n", func(i int) string { return fmt.Sprintf("  - user:%d\n", i) }), loadPolicyFile},
		{"rules.yaml", repeated(size, "version: 1\nrules:\n", func(i int) string { return fmt.Sprintf("- {name: r%d, paths: [/%d], user: [anyone]}\n", i, i) }), loadPolicyFile},
	}
}

// repeated is a head and as many lines as it takes.
func repeated(size int, head string, line func(i int) string) []byte {
	b := bytes.NewBufferString(head)
	for i := 0; b.Len() < size; i++ {
		b.WriteString(line(i))
	}
	return b.Bytes()
}

// largeCRL is a list in DER with so many entries of short serials.
func largeCRL(tb testing.TB, entries int) []byte {
	list := &x509.RevocationList{ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for i := range entries {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i) + 1<<24), RevocationTime: time.Now()})
	}
	block, _ := pem.Decode(certstest.NewCA(tb, "ca").SignCRL(tb, list))
	return block.Bytes
}

func loadCAs(tb testing.TB, path string) any {
	m, err := (&files.Source{WantTrust: true, ClientCA: filepath.Dir(path)}).Load(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func loadUserFile(tb testing.TB, path string) any {
	u, err := authn.NewUsers(authn.Options{Log: slog.New(slog.DiscardHandler), Read: func() (map[string][]byte, error) { return files.Read(path) }})
	if err == nil {
		_, err = u.Load(context.Background())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func loadPolicyFile(tb testing.TB, path string) any {
	s := &policy.Store{File: path, Log: slog.New(slog.DiscardHandler), Surroundings: policy.Surroundings{Methods: []string{policy.LocalMethod}},
		Read: func() ([]byte, error) { return files.ReadOne(path) }}
	if _, err := s.Load(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// What a byte of each kind of file costs: the constants of fileLimits.
func BenchmarkFileCost(b *testing.B) {
	for _, f := range largeFiles(b, 400<<10) {
		b.Run(f.name, func(b *testing.B) {
			path := writeLarge(b, f)
			var peak, kept int64
			for b.Loop() {
				p, k := costOf(func() any { return f.load(b, path) })
				peak, kept = max(peak, p), max(kept, k)
			}
			b.ReportMetric(float64(peak)/float64(len(f.data)), "peak/byte")
			b.ReportMetric(float64(kept)/float64(len(f.data)), "kept/byte")
		})
	}
}

// writeLarge puts the file into a folder of its own, beside what it needs.
func writeLarge(tb testing.TB, f largeFile) string {
	dir := tb.TempDir()
	path := filepath.Join(dir, f.name)
	err := os.WriteFile(path, f.data, 0o600)
	if err == nil && strings.Contains(f.name, "crl") {
		err = os.WriteFile(filepath.Join(dir, "ca.crt"), certstest.NewCA(tb, "another").PEM(), 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return path
}
