// Package agent is the guest's side: it puts the services together and decides
// who may call them. guest-agent is this package with flags; another program
// can have an agent inside it, with services of its own beside the agent's:
//
//	a, err := agent.New(&agent.Config{Access: access.Rules{UID: uint32(os.Geteuid())}})
//	if err != nil { ... }
//	defer a.Close()
//	examplev1.RegisterExampleServer(a, example)
//	l, err := transport.Listen(ctx, transport.VsockAddr(transport.CIDAny, transport.AgentPort), nil)
//	if err != nil { ... }
//	err = a.Serve(l)
//
// # Services
//
// guest.v1.AgentService, guest.v1.ProcessService, grpc.health.v1.Health (which
// knows each service by its name, and the agent as ""), and reflection.
//
// # Access
//
// Package access decides. This package asks it about each connection, and again
// about each call, in an interceptor over every method: a method that nobody
// has decided on, such as one of another program's services, answers only
// callers who are trusted. Services need no checks of their own.
//
// # Linux
//
// The package is for Linux guests. Other systems have no agent yet.
package agent
