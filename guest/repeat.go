package guest

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// repeatable reports whether a call of a method does no more when it is made twice: it
// only reads. The declarations of the methods say so, but for those of ControlService,
// which are all of one class.
func repeatable(method string) bool {
	switch method {
	case guestv1.ControlService_ListHostKeys_FullMethodName, guestv1.ControlService_GetPolicy_FullMethodName:
		return true
	}
	switch declare.Method(method).GetClass() {
	case guestv1.MethodClass_METHOD_CLASS_FACTS, guestv1.MethodClass_METHOD_CLASS_READ, guestv1.MethodClass_METHOD_CLASS_REDUCED:
		return true
	}
	return false
}

// call makes a unary call. One that only reads is repeated after a lost connection.
func call[Q, R any](ctx context.Context, g *Guest, op, method string, request *Q) (*R, error) {
	var response *R
	once := func() error {
		response = new(R)
		return g.conn.Invoke(ctx, method, request, response)
	}
	var err error
	if repeatable(method) {
		err = g.persist(ctx, op, method, once)
	} else {
		err = g.wrap(op, method, once())
	}
	if err != nil {
		return nil, err
	}
	return response, nil
}

// openReading makes a call that only reads and returns its stream with the first
// message, nil if there is none. Until that has come, it is repeated after a lost
// connection.
func openReading[R any](ctx context.Context, g *Guest, op, method string, open func(context.Context) (grpc.ServerStreamingClient[R], error)) (st grpc.ServerStreamingClient[R], first *R, err error) {
	err = g.persist(ctx, op, method, func() (err error) {
		if st, err = open(ctx); err == nil {
			first, err = st.Recv()
		}
		if errors.Is(err, io.EOF) {
			first, err = nil, nil
		}
		return err
	})
	return st, first, err
}

// persist makes a call that may be repeated, until it is answered or the
// connection is not re-established in time.
func (g *Guest) persist(ctx context.Context, op, method string, call func() error) error {
	again := reconnector{limit: g.reconnect}
	for {
		began := time.Now()
		err := g.wrap(op, method, call())
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != codes.Unavailable || e.Reason == ReasonAgentRestarted || !Temporary(err) {
			return err
		}
		if time.Since(began) > lastRetry { // not one of a series of failures
			again.connected()
		}
		if !again.wait(ctx, g.closed) {
			return err
		}
	}
}
