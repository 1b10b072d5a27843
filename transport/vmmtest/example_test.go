package vmmtest_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// A gRPC server in the guest, a client on the host, and a restore from a
// snapshot between two calls.
func Example() {
	vmm, err := vmmtest.Start(vmmtest.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer vmm.Close()

	// In the guest.
	l, err := vmm.Listen(1000)
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(transport.NewCredentials()))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	defer srv.Stop()

	// On the host.
	cc, err := transport.NewGRPCClient(vmm.Addr(1000))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	check := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		reply, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(reply.Status)
	}
	check()
	vmm.Reset()
	cc.WaitForStateChange(context.Background(), connectivity.Ready)  // the client notices
	vmm.SetFaults(vmmtest.Faults{Handshake: vmmtest.HandshakeGlued}) // grpc-go's servers speak first
	check()
	fmt.Println("connections reset:", vmm.Stats().Resets)
	// Output:
	// SERVING
	// SERVING
	// connections reset: 1
}
