package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"sidegate/policy/authn"
)

// passwdCost is what new hashes cost: about 60 ms on one core, once a login.
const passwdCost = 10

// runPasswd adds, changes or deletes a user of an htpasswd file.
func runPasswd(_ context.Context, p *program) error {
	remove := false
	var names []string
	for _, arg := range p.args {
		switch {
		case arg == "-d":
			remove = true
		case strings.HasPrefix(arg, "-"):
			return usagef("passwd: an argument begins with - and is not -d; the password is read from stdin")
		default:
			names = append(names, arg)
		}
	}
	if len(names) != 2 {
		return usagef("passwd takes a file and a user: sidegate passwd [-d] FILE USER")
	}
	file, user := names[0], names[1]
	if remove {
		if err := authn.DeleteUser(file, user); err != nil {
			return err
		}
		line(p.stderr, "deleted %s from %s", user, file)
		return nil
	}
	if err := authn.CheckName(user); err != nil {
		return usageError{err}
	}
	password, err := readPassword(p)
	if err != nil {
		return err
	}
	added, err := authn.SetPassword(file, user, password, passwdCost)
	if err != nil {
		return err
	}
	verb := "changed"
	if added {
		verb = "added"
	}
	line(p.stderr, "%s %s in %s", verb, user, file)
	return nil
}

// readPassword asks twice at a terminal, without echo, and else reads one line.
func readPassword(p *program) ([]byte, error) {
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read password: %w", err)
		}
		return []byte(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")), nil
	}
	first, err := ask(p, f, "New password: ")
	if err != nil {
		return nil, err
	}
	second, err := ask(p, f, "Again: ")
	if err != nil {
		return nil, err
	}
	if string(first) != string(second) {
		return nil, errors.New("the two are not the same; nothing was changed")
	}
	return first, nil
}

func ask(p *program, f *os.File, prompt string) ([]byte, error) {
	fmt.Fprint(p.stderr, prompt)
	password, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(p.stderr)
	return password, err
}
