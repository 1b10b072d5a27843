package hostile

import (
	"log/slog"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// Manner is how an agent answers a call.
type Manner string

// The manners.
const (
	Once    Manner = "once"    // a message for each that a stream of its kind could begin with, and the end
	Endless Manner = "endless" // messages without end
	Twice   Manner = "twice"   // two answers where there is one
	Never   Manner = "never"   // no answer
	Nothing Manner = "nothing" // the end, and no answer
	Fails   Manner = "fails"   // an error full of Evil
)

// Manners are all of them.
var Manners = []Manner{Once, Endless, Twice, Never, Nothing, Fails}

// Agent answers the calls of all services of guest.v1, and of any other, wrongly.
// Info it answers well enough for Dial to go on.
type Agent struct {
	Temper Temper
	Manner Manner
	Seed   uint64
}

// Server returns a server for both wires on which a answers. The caller stops it.
func (a Agent) Server() *rpc.Server {
	return rpc.NewServer(&rpc.ServerConfig{
		UnknownServiceHandler: a.answer,
		Hello:                 rpc.HelloInfo{Software: Evil, BootID: Evil, Generation: Evil},
		Logger:                slog.New(slog.DiscardHandler),
	})
}

// info is an answer that an SDK takes, with Evil wherever there is text.
func info() *guestv1.InfoResponse {
	m := &guestv1.InfoResponse{}
	Fill(m, Text, 1, 0)
	m.ProtocolVersion = 1
	m.Access.Trusted = true
	for _, name := range []string{"exec", "sessions", "files", "forward", "close-output", "keys", "policy"} {
		m.Capabilities = append(m.Capabilities, &guestv1.Capability{Name: name, Enabled: true})
	}
	return m
}

// failure is an error that says evil things about itself.
func failure() error {
	d := &guestv1.ErrorDetail{}
	Fill(d, Text, 1, 0)
	st, err := status.New(codes.Internal, Evil).WithDetails(d)
	if err != nil {
		return status.Error(codes.Internal, Evil)
	}
	return st.Err()
}

// answer is the handler of all methods.
func (a Agent) answer(_ any, st grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(st)
	if name == guestv1.AgentService_Info_FullMethodName {
		if err := st.RecvMsg(new(guestv1.InfoRequest)); err != nil {
			return err
		}
		return st.SendMsg(info())
	}
	method := descriptor(name)
	if method == nil {
		return failure()
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return failure()
	}
	f := newFiller(a.Temper, a.Seed)
	request := in.New()
	if err := st.RecvMsg(request.Interface()); err != nil {
		return err
	}
	f.learn(request)
	go func() {
		// What else comes is thrown away, so that the caller can go on sending.
		for st.RecvMsg(new(emptypb.Empty)) == nil {
		}
	}()
	switch a.Manner {
	case Never:
		<-st.Context().Done()
		return st.Context().Err()
	case Nothing:
		return nil
	case Fails:
		return failure()
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return failure()
	}
	n := 1
	switch {
	case a.Manner == Endless && method.IsStreamingServer():
		n = 1 << 30
	case a.Manner != Once:
		n = 2
	case method.IsStreamingServer():
		n = 12
	}
	ready := make([]proto.Message, min(n, 12))
	for turn := range ready {
		m := out.New()
		f.fill(m, turn)
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m.Interface())
		if err != nil {
			return failure()
		}
		encoded := new(emptypb.Empty)
		encoded.ProtoReflect().SetUnknown(raw)
		ready[turn] = encoded
	}
	for turn := range n {
		if err := st.SendMsg(ready[turn%len(ready)]); err != nil {
			return err
		}
	}
	return nil
}

// descriptor returns that of "/package.Service/Method", or nil.
func descriptor(method string) protoreflect.MethodDescriptor {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	return sd.Methods().ByName(protoreflect.Name(name))
}

// Requests returns a request for each method of guest.v1 as a temper has it, by
// the name of the method.
func Requests(t Temper, seed uint64) map[string]proto.Message {
	all := make(map[string]proto.Message)
	protoregistry.GlobalFiles.RangeFilesByPackage("guest.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				in, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
				if err != nil {
					continue
				}
				request := in.New().Interface()
				Fill(request, t, seed, 0)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = request
			}
		}
		return true
	})
	return all
}

func appendQuoted(r rune) []byte { return strconv.AppendQuoteRuneToASCII(nil, r) }
