package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sidegate/certs/reload"
)

// ROT-08, ROT-21: after the user file was emptied nobody can log in, and log,
// status, metrics, check --here and both pages say so. A broken file then is
// not said to leave the last good one in service.
func TestEmptiedUserFile(t *testing.T) {
	g := startGuarded(t, allowing("alice"), "alice")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(g.ca)}}
	ask := func(want int) {
		t.Helper()
		res := g.get(client, "/slow?0s", basic("alice"))
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("alice got %d, want %d", res.StatusCode, want)
		}
	}
	ask(http.StatusOK)
	is := func(what, text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(text) {
				t.Errorf("%s: no %s in\n%s", what, w, text)
			}
		}
		if strings.Contains(text, "last good") {
			t.Errorf("%s calls something the last good one:\n%s", what, text)
		}
	}
	looks := func(problem string) {
		t.Helper()
		status, _ := g.command("status")
		is("status", status, "users: generation [0-9a-f]+, .*in service, and must be mended: "+problem)
		metrics := g.metrics()
		if !strings.Contains(metrics, `sidegate_last_reload_successful{what="users"} 0`) {
			t.Error("no alarm in the metrics")
		}
		generation := regexp.MustCompile(`users: generation ([0-9a-f]+)`).FindStringSubmatch(status)[1]
		if !strings.Contains(metrics, `sidegate_generation_info{id="`+generation+`",what="users"} 1`) {
			t.Errorf("the metrics name another generation than %s", generation)
		}
		ask(http.StatusUnauthorized)
	}

	g.users.Update(t, map[string][]byte{"htpasswd": []byte("# nobody\n\n")})
	g.log.Wait(t, `"msg":"reload in service, and must be mended"`)
	looks("the users file holds no user, so nobody can log in")
	g.users.Update(t, map[string][]byte{"htpasswd": []byte("garbage\n")})
	g.log.Wait(t, `"msg":"reload refused, what is in service must be mended"`)
	looks("htpasswd:1: no colon")
	is("log", g.log.String(), `"level":"ERROR".*the users file holds no user, so nobody can log in`)
	g.users.Update(t, map[string][]byte{"htpasswd": g.passwords})
	g.log.Wait(t, `"msg":"reload works again"`)
	ask(http.StatusOK)

	flawed := &statusReport{Loaded: []reload.Status{{What: "users", Generation: "g", Flawed: true, Err: "it holds no user"}}}
	if f := (&doctor{}).lookAtStatus(flawed); f[1].Level != levelBroken || f[1].Found != "users: generation g is in service and must be mended: it holds no user" {
		t.Errorf("check --here says %+v", f[1])
	}
	for page, want := range map[string]string{
		"README.md":   "A user file that was emptied lets nobody in",
		"SECURITY.md": "A user file that was emptied lets nobody in",
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", page))
		try(t, err)
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s does not say: %s", page, want)
		}
	}
}
