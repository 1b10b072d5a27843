//go:build linux

package guest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// exampleGuest is an agent on a Unix socket and, in the place of the guest, this
// machine's loopback.
func exampleGuest() (g *guest.Guest, stop func()) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	s := rpc.NewServer(nil)
	guestv1.RegisterAgentServiceServer(s, infoOnly{})
	guestv1.RegisterForwardServiceServer(s, forward.NewServer(nil))
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	g, err = guest.Dial(context.Background(), "unix:"+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	return g, func() {
		g.Close()
		s.Stop()
		<-served
		os.RemoveAll(dir)
	}
}

func listenLoopback() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}

// An HTTP client whose connections are made inside the guest.
func ExampleGuest_DialContext_http() {
	g, stop := exampleGuest()
	defer stop()
	l := listenLoopback()
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the guest serves %s", r.URL.Path)
	}))

	client := &http.Client{Transport: &http.Transport{DialContext: g.DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + l.Addr().String() + "/index.html")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s, %v\n", body, err)
	// Output: the guest serves /index.html, <nil>
}

// keyValueClient stands for the client of a database: drivers such as pgx
// (Config.DialFunc), go-redis (Options.Dialer) and go-sql-driver/mysql
// (RegisterDialContext) take a function of this kind.
type keyValueClient struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	addr string
}

func (c keyValueClient) get(ctx context.Context, key string) (string, error) {
	conn, err := c.dial(ctx, "tcp", c.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s\n", key); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// The driver of a database that runs in the guest.
func ExampleGuest_DialContext_database() {
	g, stop := exampleGuest()
	defer stop()
	l := listenLoopback()
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		fmt.Fprintf(conn, "the answer to %s", line)
	}()

	db := keyValueClient{dial: g.DialContext, addr: l.Addr().String()}
	value, err := db.get(context.Background(), "name")
	fmt.Printf("%q, %v\n", value, err)
	// Output: "the answer to GET name\n", <nil>
}

// A gRPC client of a service in the guest that is not the agent's.
func ExampleGuest_DialContext_grpc() {
	g, stop := exampleGuest()
	defer stop()
	l := listenLoopback()
	s := grpc.NewServer()
	defer s.Stop()
	healthv1.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)

	// "passthrough" leaves the address to the dialer: names are the guest's.
	cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return g.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	resp, err := healthv1.NewHealthClient(cc).Check(context.Background(), &healthv1.HealthCheckRequest{})
	fmt.Println(resp.GetStatus(), err)
	// Output: SERVING <nil>
}

// A server on the host for clients in the guest.
func ExampleGuest_Listen() {
	g, stop := exampleGuest()
	defer stop()
	l, err := g.Listen(context.Background(), "tcp", "127.0.0.1:0") // in the guest
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "the host serves ", r.URL.Path)
	}))

	// What a program in the guest does.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + l.Addr().String() + "/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s, %v\n", body, err)
	// Output: the host serves /, <nil>
}

// Relay joins a connection that was accepted here with one in the guest, which
// is how a port is forwarded.
func ExampleRelay() {
	g, stop := exampleGuest()
	defer stop()
	server := listenLoopback() // in the guest
	defer server.Close()
	go http.Serve(server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "through a forwarded port")
	}))

	l := listenLoopback() // here
	defer l.Close()
	go func() {
		for {
			local, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				inGuest, err := g.DialContext(context.Background(), "tcp", server.Addr().String())
				if err != nil {
					local.Close()
					return
				}
				guest.Relay(local, inGuest)
			}()
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s, %v\n", body, err)
	// Output: through a forwarded port, <nil>
}
