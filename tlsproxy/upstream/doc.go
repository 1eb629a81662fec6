// Package upstream sends requests to an application over HTTP/1.1, and sees to
// it that nobody reads an answer that was meant for somebody else.
//
//	client := upstream.New(upstream.Options{Dial: dialer.Dial, Idle: 1500 * time.Millisecond, Log: log})
//	res, err := client.Do(ctx, &upstream.Request{Head: http1.Request{Method: "GET", Target: "/", Host: "localhost"}, Owner: owner})
//	…
//	_, err = io.Copy(w, res.Body)
//	err = res.Body.Close()
//
// # Promises
//
// A connection serves the requests of one [Owner]: one client connection, one
// user and one client address. No other owner ever uses it again, so whatever
// an application sends, and whenever, no byte of it reaches another client.
//
// An answer that ended too early is never io.EOF. No byte of an answer is in an
// error or in the log.
//
// # Design
//
// Applications exist that send more than their answer: a body with HEAD (Django
// on gunicorn's threads), 204 or 304, or more than Content-Length. On a connection
// that is used again, that surplus is read as the next answer, and from then on
// every answer is one off. net/http's Transport shares connections between all
// clients and puts one back before it looks.
//
// Here a connection is used again only if it was seen silent: nothing is
// buffered, and a look into the socket (MSG_PEEK) finds neither a byte nor the
// end. Surplus often comes a little after the answer, so there is more:
//
//   - After HEAD, and after 204 or 304 with a field that speaks of a body, a
//     connection must have been silent for 50 ms.
//   - So must every connection until 1,000 of them were silent for that long: an
//     application is on probation until then. While it is, no more connections
//     wait than were in use at a time during the last moments, but at least 8;
//     the others are closed.
//   - One byte of surplus, whenever it is seen, ends the trust in answers of its
//     kind: their connections are closed from then on. It begins the probation
//     anew for all other kinds, and is logged once for each kind.
//   - 204 with a length above 0 or with Transfer-Encoding ends its connection.
//
// What an application sends more than 50 ms late, after it has passed, can only
// reach the owner that it was sent to before. Letting others use a connection
// that was silent for 50 ms would save a dial now and then, 50 µs on loopback,
// and would hand such a byte to a stranger; so nobody does.
//
// Connections that wait longer than a moment are not more than those in use, but
// at least 8, because each may hold a thread of the application; and those of a
// client end with it.
//
// A request is repeated, by a new connection, only if a connection that was used
// before ended without the first byte of an answer and the request may be
// repeated: an idempotent method, and no body. Any other request goes by no
// connection that has waited 500 ms or longer, because applications close those.
//
// An exchange runs in its caller's goroutine. Only a body that does not fit into
// a buffer with the head, or has no length, is sent by another, since the answer
// may come before its end. What the application has answered counts, whatever
// became of the upload: one that refuses an upload answers and closes.
package upstream
