// Package http1 reads and writes HTTP/1.1 messages: heads, and the bodies
// behind them. It has types of its own and knows no connection, no pool and no
// policy.
//
//	head, err := (&http1.Request{Method: "GET", Target: "/", Host: "localhost"}).Append(nil)
//	…
//	var answer http1.Response
//	err = answer.Read(reader, "GET")
//	body := answer.Body(reader)
//
// # Promises
//
// Whatever is written was given so, byte for byte: what can't be written
// without another meaning is refused, never cleaned. Whatever is read has one
// reading, or is refused with a [ProtocolError] that says why and holds no byte
// of the message.
//
// # Design
//
// A head is read as RFC 9112 lets a recipient read it: a lone LF ends a line
// (2.2), a fold is a blank (5.2), and white space before the colon of an
// answer's field is dropped (5.1), because old applications send them and none
// of them has two readings here. A bare CR, a NUL and everything about where a
// body ends that could be read in two ways is refused: several lengths, a length
// that is not digits alone, a length beside Transfer-Encoding, codings other
// than chunked, chunk lines that don't end with CRLF.
package http1
