package rpc

import (
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"google.golang.org/grpc"
)

// service is a registered service.
type service struct {
	desc *grpc.ServiceDesc
	impl any
}

// method is a registered method, or the one that stands for all others.
type method struct {
	name   string // "/package.Service/Method"
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	pace   pace
}

// pace remembers how quick the handler of a unary method has been.
type pace struct {
	score atomic.Int32
	apart atomic.Bool // never on the goroutine that reads: it keeps its thread
}

const (
	// quick is how long a handler may take and count as quick. It includes what
	// the scheduler adds.
	quick = 200 * time.Microsecond
	// provenQuick is how often in a row it must have been.
	provenQuick = 3
	// provenSlow is what one slow call costs.
	provenSlow = -32
)

// quick reports whether the handler may run on the goroutine that reads.
func (p *pace) quick() bool { return p.score.Load() >= provenQuick && !p.apart.Load() }

// proves reports whether the next quick call is part of the proof.
func (p *pace) proves() bool { return p.score.Load() < provenQuick && !p.apart.Load() }

// took records a call that did not run there.
func (p *pace) took(d time.Duration) {
	n := p.score.Load()
	switch {
	case d > quick:
		p.score.Store(min(n, 0) + provenSlow/8)
		if n < provenSlow {
			p.score.Store(provenSlow)
		}
	case n < provenQuick:
		p.score.Store(n + 1)
	}
}

// slow records that another goroutine took over from the handler, and excuse that the
// handler was quick nevertheless.
func (p *pace) slow()   { p.score.Store(provenSlow) }
func (p *pace) excuse() { p.score.Store(provenQuick) }

// registry holds the services of a server.
type registry struct {
	services map[string]*service
	methods  map[string]*method
	unknown  *method // nil without an UnknownServiceHandler
}

// add registers a service. It panics if impl does not implement it, as
// grpc.Server does.
func (r *registry) add(desc *grpc.ServiceDesc, impl any) {
	if impl != nil {
		if ht := reflect.TypeOf(desc.HandlerType).Elem(); !reflect.TypeOf(impl).Implements(ht) {
			panic(fmt.Sprintf("rpc: RegisterService: %T does not implement %v", impl, ht))
		}
	}
	if _, ok := r.services[desc.ServiceName]; ok {
		panic("rpc: RegisterService: " + desc.ServiceName + " is registered already")
	}
	if r.services == nil {
		r.services, r.methods = make(map[string]*service), make(map[string]*method)
	}
	r.services[desc.ServiceName] = &service{desc, impl}
	for i := range desc.Methods {
		d := &desc.Methods[i]
		name := "/" + desc.ServiceName + "/" + d.MethodName
		r.methods[name] = &method{name: name, impl: impl, unary: d}
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		name := "/" + desc.ServiceName + "/" + d.StreamName
		r.methods[name] = &method{name: name, impl: impl, stream: d}
	}
}

// find returns the method of that name. One that is not registered has neither a
// unary nor a stream handler, or that of unknown.
func (r *registry) find(name string) *method {
	if m := r.methods[name]; m != nil {
		return m
	}
	if r.unknown != nil {
		return &method{name: name, stream: r.unknown.stream}
	}
	return &method{name: name}
}

// nameCost returns what it costs to remember a method, in bytes: nothing of one that is
// registered.
func (r *registry) nameCost(m *method) int64 {
	if m == nil || r.methods[m.name] == m {
		return 0
	}
	return int64(len(m.name)) + int64(unsafe.Sizeof(*m))
}

// unimplemented says why m cannot be called, as grpc.Server does.
func (r *registry) unimplemented(m *method) string {
	i := strings.LastIndexByte(m.name, '/')
	if !strings.HasPrefix(m.name, "/") || i <= 0 {
		return fmt.Sprintf("malformed method name: %q", m.name)
	}
	if _, ok := r.services[m.name[1:i]]; ok {
		return fmt.Sprintf("unknown method %s for service %s", m.name[i+1:], m.name[1:i])
	}
	return "unknown service " + m.name[1:i]
}

// info implements reflection.ServiceInfoProvider.
func (r *registry) info() map[string]grpc.ServiceInfo {
	all := make(map[string]grpc.ServiceInfo, len(r.services))
	for name, s := range r.services {
		si := grpc.ServiceInfo{Metadata: s.desc.Metadata}
		for _, m := range s.desc.Methods {
			si.Methods = append(si.Methods, grpc.MethodInfo{Name: m.MethodName})
		}
		for _, m := range s.desc.Streams {
			si.Methods = append(si.Methods, grpc.MethodInfo{Name: m.StreamName, IsClientStream: m.ClientStreams, IsServerStream: m.ServerStreams})
		}
		all[name] = si
	}
	return all
}
