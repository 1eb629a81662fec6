package main

import (
	"flag"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets more tests of the whole program run at a time than there are
// processors: most of them wait.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // a flag of the command line comes after it
	testscript.Main(m, map[string]func(){"sidegate": main})
}

// TestScript runs testdata/script/*.txtar: what a user types and sees.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Vars = append(e.Vars, endAtOnce)
			return nil
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}
