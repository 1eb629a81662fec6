package authn_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"

	"sidegate/policy"
	"sidegate/policy/authn"
)

func Example() {
	// As made by openssl passwd -apr1 -salt salt s3cret. New entries should be
	// bcrypt, as sidegate passwd makes them.
	file := []byte("alice:$apr1$salt$SjIo4E2zA7mrxBvk039ZN.\n")
	users, err := authn.NewUsers(authn.Options{
		Realm: "sidegate",
		Read:  func() (map[string][]byte, error) { return map[string][]byte{"htpasswd": file}, nil },
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if _, err := users.Load(ctx); err != nil {
		fmt.Println(err)
		return
	}

	request := &http.Request{Header: http.Header{}}
	request.SetBasicAuth("alice", "s3cret")
	seen := &policy.Request{Gate: "main", Client: netip.MustParseAddr("192.0.2.1"), Header: request.Header}
	login, err := users.Authenticate(ctx, seen)
	fmt.Println(login.User.Name, err)

	request.SetBasicAuth("alice", "wrong")
	_, err = users.Authenticate(ctx, seen)
	fmt.Println(err)
	// Output:
	// alice <nil>
	// bad_credentials
}
