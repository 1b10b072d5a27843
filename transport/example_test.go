package transport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// The examples use a Unix socket, so that they run anywhere; with
// vsock:3:1000 or vsock-mux:/run/fc.sock:1000 they are the same.
func exampleAddr() (a transport.Addr, remove func()) {
	dir, err := os.MkdirTemp("", "vt")
	if err != nil {
		log.Fatal(err)
	}
	return transport.UnixAddr(filepath.Join(dir, "guest.sock")), func() { os.RemoveAll(dir) }
}

func ExampleDial() {
	addr, remove := exampleAddr()
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	_, err := transport.Dial(ctx, addr, nil)
	if errors.Is(err, transport.ErrNotListening) {
		fmt.Println("nobody there yet")
	}

	l, err := transport.Listen(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	conn, err := transport.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println("connected over", conn.RemoteAddr().Network())

	// Output:
	// nobody there yet
	// connected over unix
}

func ExampleListen() {
	addr, remove := exampleAddr()
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// In a guest: transport.VsockAddr(transport.CIDAny, transport.AgentPort),
	// and a check such as p.CID == transport.CIDHost.
	l, err := transport.Listen(ctx, addr, &transport.ListenConfig{
		Accept: func(p transport.Peer) error {
			if p.HasCreds && p.UID != uint32(os.Getuid()) {
				return fmt.Errorf("%v may not call", p)
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			fmt.Fprintf(conn, "you said %s", line)
			conn.Close()
		}
	}()

	conn, err := transport.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	answer, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(answer))
	// Output: you said hello
}

func ExampleNewGRPCClient() {
	addr, remove := exampleAddr()
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// The server's credentials give its handlers the peer's CID and port, or
	// uid: peer.FromContext has a transport.AuthInfo.
	l, err := transport.Listen(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(transport.NewCredentials()))
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(l)
	defer server.Stop()

	client, err := transport.NewGRPCClient(addr.String())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	// WaitForReady goes on trying while the guest boots, until ctx ends.
	reply, err := healthpb.NewHealthClient(client).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Status)
	// Output: SERVING
}

func ExampleParseAddr() {
	for _, s := range []string{"vsock:3", "vsock-mux:/run/fc.sock:1000", "vsock://3:1000"} {
		a, err := transport.ParseAddr(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(a.Network(), a)
	}
	// Output:
	// vsock vsock:3:1000
	// vsock-mux vsock-mux:/run/fc.sock:1000
	// parse: address "vsock://3:1000": vsock addresses have no slashes: write vsock:3:1000
}

// A client of package rpc for an address is one line.
func ExampleDialer() {
	c := rpc.NewClient(transport.Dialer("vsock:3:1000", nil), nil)
	defer c.Close()
	fmt.Println(c.State()) // it connects with the first call
	// Output: IDLE
}
