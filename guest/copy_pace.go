package guest

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

// pace has a transfer move so many bytes a second. It is used by one goroutine at a time.
type pace struct {
	rate  uint64 // 0: as many as there are
	begun time.Time
	bytes uint64
}

// paceSlack is how far a transfer may be ahead, so that waits are few, and how much of the
// time in which it could not move it may make up for.
const paceSlack = 50 * time.Millisecond

// moved waits until so many bytes more may have moved.
func (p *pace) moved(ctx context.Context, bytes int) error {
	if p.rate == 0 || bytes == 0 {
		return nil
	}
	p.bytes += uint64(bytes)
	due := p.begun.Add(time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second)))
	ahead := time.Until(due)
	if ahead < -paceSlack {
		p.begun, p.bytes = time.Now(), 0
		return nil
	}
	if ahead < paceSlack {
		return nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pacedSend is a stream that sends pieces of files no faster than its pace.
type pacedSend struct {
	copyStream
	pace *pace
}

// SendMsg implements grpc.ClientStream.
func (s pacedSend) SendMsg(m any) error {
	if f, ok := m.(*bulk.Frame); ok {
		if err := s.pace.moved(s.Context(), sizeOf(f)); err != nil {
			return err
		}
	}
	return s.copyStream.SendMsg(m)
}

// pacedReceive is a stream that takes pieces of files no faster than its pace.
type pacedReceive struct {
	grpc.ClientStream
	pace *pace
}

// RecvMsg implements grpc.ClientStream.
func (s pacedReceive) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if f, ok := m.(*bulk.Frame); ok && err == nil {
		err = s.pace.moved(s.Context(), sizeOf(f))
	}
	return err
}

// sizeOf returns the bytes of a message of a transfer.
func sizeOf(f *bulk.Frame) int {
	if f.Control != nil {
		return proto.Size(f.Control)
	}
	return len(f.Data)
}
