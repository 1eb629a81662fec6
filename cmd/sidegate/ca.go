package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sidegate/certs/devca"
	"sidegate/certs/files"
	"sidegate/policy"
)

// developmentCA is the name of every CA that we make, so that nobody takes it
// for another.
const developmentCA = "Sidegate development CA (not for production)"

func caHelp() string {
	return `Usage: sidegate ca init FOLDER
       sidegate ca issue FOLDER OUT [options]
       sidegate ca serve FOLDER [options]

A CA for laptops and tests: 30 days, no questions asked, its key in a file. init
makes it; issue signs a certificate and writes it as a mounted Secret would be:
tls.crt, tls.key and ca.crt in the folder OUT. Done again it rotates what is
there under a running sidegate. serve signs as a CFSSL server does, and prints
the variables with which sidegate uses it; its key is FOLDER/auth-key.

Options of issue:
    --host NAME       a DNS name or IP address of a server; repeatable
    --spiffe-id ID    the SPIFFE ID of a workload
    --name NAME       the common name; default: the first host or "client"
    --client          for a client; with --host for a server too
    --lifetime 24h    at most to the CA's end

Options of serve:
    --listen 127.0.0.1:8888
    --host NAME       under which others reach it, besides localhost; repeatable
    --lifetime 1h     of what it signs

Example: a server and a client that know each other

    sidegate ca init ca
    sidegate ca issue ca server --host localhost
    sidegate ca issue ca client --spiffe-id spiffe://dev.example/me

Example: a gate that has its certificates from a server

    sidegate ca serve ca > variables &
    sleep 1; . ./variables
    SIDEGATE_ALLOW=anyone sidegate serve
`
}

func runCA(ctx context.Context, p *program) error {
	if len(p.args) == 0 {
		return usagef("ca: say init, issue or serve; ca -h shows how")
	}
	switch word, args := p.args[0], p.args[1:]; word {
	case "init":
		if len(args) != 1 {
			return usagef("ca init takes the folder to make")
		}
		return initCA(p, args[0])
	case "issue":
		return issue(p, args)
	case "serve":
		return serveCA(ctx, p, args)
	default:
		return usagef("ca: unknown word %q%s", word, didYouMean(word, []string{"init", "issue", "serve"}))
	}
}

// initCA makes a CA in a folder that has none.
func initCA(p *program, dir string) error {
	ca, err := devca.New(developmentCA)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"ca.key", ca.Key()}, {"ca.crt", ca.Bundle()}} {
		if err := writeNew(filepath.Join(dir, f.name), f.text); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.stderr, "made %s in %s, until %s\n", developmentCA, dir, ca.NotAfter().Format(time.DateOnly))
	return nil
}

// writeNew writes a file for its owner alone, and none that is there already:
// a CA that is overwritten is lost with all that trust it.
func writeNew(file string, text []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; remove it if nothing trusts that CA any more", file)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// issue signs a certificate into a folder.
func issue(p *program, args []string) error {
	leaf, folders, err := parseLeaf(args)
	if err != nil {
		return err
	}
	ca, err := loadCA(folders[0])
	if err != nil {
		return err
	}
	pair, err := ca.Issue(leaf)
	if err != nil {
		return usageError{err}
	}
	if err := files.WriteSecret(folders[1], map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": ca.Bundle()}); err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "signed %s into %s, for %s\n", leaf.Name, folders[1], leaf.Lifetime)
	return nil
}

// loadCA reads the CA that init has made.
func loadCA(dir string) (ca *devca.CA, err error) {
	text := map[string][]byte{}
	for _, name := range []string{"ca.crt", "ca.key"} {
		if text[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("%w; sidegate ca init %s makes a CA there", err, dir)
		}
	}
	if ca, err = devca.Load(text["ca.crt"], text["ca.key"]); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return ca, nil
}

// parseLeaf reads what to sign, and the two folders.
func parseLeaf(args []string) (devca.Leaf, []string, error) {
	var leaf devca.Leaf
	spiffeID := ""
	flags := flag.NewFlagSet("ca issue", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("host", "", func(h string) error { leaf.Hosts = append(leaf.Hosts, h); return nil })
	flags.StringVar(&spiffeID, "spiffe-id", "", "")
	flags.StringVar(&leaf.Name, "name", "", "")
	flags.BoolVar(&leaf.Client, "client", false, "")
	flags.DurationVar(&leaf.Lifetime, "lifetime", 24*time.Hour, "")
	folders, err := wordsAndFlags(flags, args)
	switch {
	case err != nil:
		return leaf, nil, usagef("ca issue: %v; ca -h lists the options", err)
	case len(folders) != 2:
		return leaf, nil, usagef("ca issue takes the CA's folder and the one to write: sidegate ca issue ca server --host localhost")
	case len(leaf.Hosts) == 0 && spiffeID == "" && !leaf.Client:
		return leaf, nil, usagef("ca issue: for whom? --host NAME for a server, --client or --spiffe-id ID for a client")
	}
	leaf.Server = len(leaf.Hosts) > 0
	if leaf.Name == "" {
		leaf.Name = "client"
		if leaf.Server {
			leaf.Name = leaf.Hosts[0]
		}
	}
	if spiffeID != "" {
		if err := checkSPIFFEID(spiffeID); err != nil {
			return leaf, nil, usageError{err}
		}
		leaf.Client = true
		leaf.Hosts = append(leaf.Hosts, spiffeID)
	}
	return leaf, folders, nil
}

func checkSPIFFEID(id string) error {
	if p, err := policy.PeerOf(id); err != nil || p.ID.IsZero() {
		return fmt.Errorf("ca issue: --spiffe-id %q is not a SPIFFE ID such as spiffe://dev.example/me", id)
	}
	return nil
}
