// App is the application of the end-to-end tests: plain HTTP, WebSocket and
// gRPC health, ended the way a well-made application ends.
//
//	GET  /            who is asking, as the sidecar says
//	POST /            the body again
//	GET  /slow        an answer of three seconds
//	GET  /websocket   what is sent, again
//	GET  /healthz     200, or 503 after POST /unwell
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address of HTTP")
	rpc := flag.String("grpc", "", "address of grpc.health.v1")
	work := flag.Duration("work", 0, "work this long and end, as a Job")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if *work > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(*work):
		}
		return
	}
	if *rpc != "" {
		go serveGRPC(*rpc)
	}
	if err := serve(ctx, *listen); err != nil {
		log.Fatal(err)
	}
}

// serve ends when ctx is done and the last answer and WebSocket have ended.
func serve(ctx context.Context, address string) error {
	a := new(app)
	server := &http.Server{
		Addr: address, Handler: a.routes(), ErrorLog: log.Default(),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 20,
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		err := server.Shutdown(context.Background())
		a.sockets.Wait()
		ended <- err
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

type app struct {
	unwell  atomic.Bool
	sockets sync.WaitGroup
}

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s\n", r.Header.Get("X-Forwarded-User"))
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			w.Write(body)
		}
	})
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /websocket", a.echo)
	mux.HandleFunc("POST /unwell", func(w http.ResponseWriter, r *http.Request) { a.unwell.Store(true) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if a.unwell.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return mux
}

func slow(w http.ResponseWriter, r *http.Request) {
	for i := range 30 {
		fmt.Fprintln(w, i)
		http.NewResponseController(w).Flush()
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Fprintln(w, "end")
}

func (a *app) echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	a.sockets.Add(1)
	defer a.sockets.Done()
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), kind, message) != nil {
			return
		}
	}
}

func serveGRPC(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	log.Fatal(s.Serve(l))
}
