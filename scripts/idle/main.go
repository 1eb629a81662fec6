// Idle opens TLS connections to ADDRESS, makes one request on each, says
// "open", and keeps them until a signal ends it.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
)

func main() {
	conns, err := open(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
	fmt.Println("open")
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	<-end
	runtime.KeepAlive(conns) // else they are closed when they are collected
}

func open(args []string) ([]net.Conn, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("usage: idle ADDRESS CONNECTIONS")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	var conns []net.Conn
	for range n {
		// The measured server's certificate is made for the measurement.
		c, err := tls.Dial("tcp", args[0], &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return nil, err
		}
		conns = append(conns, c)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return nil, err
		}
	}
	return conns, nil
}
