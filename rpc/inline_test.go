package rpc

import (
	"context"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const echoMethod = "/test.Echo/Echo"

// proveQuick makes calls until handlers run on the goroutine that reads.
func proveQuick(t *testing.T, s *Server, cc grpc.ClientConnInterface) {
	t.Helper()
	for range 1000 {
		if s.find(echoMethod).pace.quick() {
			return
		}
		if _, err := call(t, cc, "quick"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // its goroutine says afterwards how quick it was
	}
	t.Fatal("the handler does not prove to be quick")
}

// TestSlowHandlerDelaysOthersOneTick: a handler that turns out to be slow holds up the
// other calls of its connection for half a millisecond at most.
func TestSlowHandlerDelaysOthersOneTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := map[string]time.Time{}
		slow := make(chan struct{})
		s := newEchoServer(&echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
			switch kind := string(in.Value); kind {
			case "slow":
				began[kind] = time.Now()
				close(slow)
				time.Sleep(time.Second)
			case "neighbour":
				began[kind] = time.Now()
			}
			return in, nil
		}}, nil)
		defer s.Stop()
		c := NewClient(func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go s.ServeConn(b)
			return a, nil
		}, nil)
		defer c.Close()
		proveQuick(t, s, c)
		ended := make(chan error, 1)
		go func() {
			_, err := call(t, c, "slow")
			ended <- err
		}()
		<-slow
		if _, err := call(t, c, "neighbour"); err != nil {
			t.Fatal(err)
		}
		if d := began["neighbour"].Sub(began["slow"]); d > 500*time.Microsecond {
			t.Errorf("the neighbour waited %v", d)
		}
		if s.find(echoMethod).pace.quick() {
			t.Error("the handler still counts as quick")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestQuickHandlerIsExcused: a handler that runs just when it is looked at, and ends at
// once, still counts as quick.
func TestQuickHandlerIsExcused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEchoServer(&echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
			if string(in.Value) == "nap" {
				time.Sleep(inlineTick + quick/2) // a tick comes within it, and not long before its end
			}
			return in, nil
		}}, nil)
		defer s.Stop()
		c := NewClient(func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go s.ServeConn(b)
			return a, nil
		}, nil)
		defer c.Close()
		proveQuick(t, s, c)
		time.Sleep(time.Second) // no tick is due when the next call comes
		if _, err := call(t, c, "nap"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.find(echoMethod).pace.quick() {
			t.Error("the handler counts as slow")
		}
	})
}

// TestYieldedReadingComesBackInTime: while the handler of a stream, which reads the
// connection, is at work, another call waits for half a millisecond at most.
func TestYieldedReadingComesBackInTime(t *testing.T) {
	if serverUnread > 500*time.Microsecond {
		t.Errorf("the connection stays unread for %v", serverUnread)
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		sc := newServerConn(newEchoServer(nil, nil), b, &peer.Peer{}, &arrival{}, "")
		sc.mu.Lock()
		sc.reading, sc.interruptible = false, true
		for range 10 { // the handler has read again and again
			sc.armReclaim()
			sc.mu.Unlock()
			time.Sleep(serverUnread / 2)
			sc.mu.Lock()
		}
		sc.armReclaim()
		start := time.Now()
		for !sc.reading && time.Since(start) < time.Second {
			sc.mu.Unlock()
			time.Sleep(10 * time.Microsecond)
			sc.mu.Lock()
		}
		if d := time.Since(start); d > serverUnread+10*time.Microsecond {
			t.Errorf("nobody read for %v", d)
		}
		sc.mu.Unlock()
		sc.fail(errServerStop)
		synctest.Wait()
	})
}

// TestHandlersThatKeepTheirThread: a handler that leaves its goroutine locked to its
// thread takes the thread along, whether it always does or only once it counts as quick.
func TestHandlersThatKeepTheirThread(t *testing.T) {
	answer := func(text string) (*wrapperspb.BytesValue, error) { return value(text), nil }
	handler := func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		if lockedToThread() {
			return answer("locked before")
		}
		if string(in.Value) == "lock" {
			runtime.LockOSThread()
		}
		return answer(string(in.Value))
	}
	t.Run("now and then", func(t *testing.T) {
		s := newEchoServer(&echo{unary: handler}, nil)
		cc := clientFor(t, serveUnix(t, s), "native/unix")
		proveQuick(t, s, cc)
		for range 5 {
			time.Sleep(2 * lockCheckTime) // as calls come that are not made in bulk
			for _, in := range []string{"lock", "free"} {
				if out, err := call(t, cc, in); err != nil || out != in {
					t.Errorf("%q, %v, want %q", out, err, in)
				}
			}
		}
		if s.find(echoMethod).pace.quick() {
			t.Error("the method still runs inline")
		}
	})
	t.Run("always", func(t *testing.T) {
		s := newEchoServer(&echo{unary: handler}, nil)
		cc := clientFor(t, serveUnix(t, s), "native/unix")
		for range 10 * provenQuick {
			if out, err := call(t, cc, "lock"); err != nil || out != "lock" {
				t.Errorf("%q, %v", out, err)
			}
		}
		if s.find(echoMethod).pace.quick() {
			t.Error("the method runs inline")
		}
	})
}

// TestServeConnIsItsCallers: what handlers do to the goroutine that they run on does not
// happen to that of ServeConn's caller, which returns when the connection has ended.
func TestServeConnIsItsCallers(t *testing.T) {
	for _, what := range []string{"lock", "exit"} {
		t.Run(what, func(t *testing.T) {
			s := newEchoServer(&echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
				switch string(in.Value) {
				case "lock":
					runtime.LockOSThread()
				case "exit":
					runtime.Goexit()
				}
				return in, nil
			}}, nil)
			defer s.Stop()
			a, b := connected(t, "unix")
			c := NewClient(func(context.Context) (net.Conn, error) { return a, nil }, nil)
			defer c.Close()
			locked, returned := make(chan bool, 1), make(chan struct{})
			go func() {
				defer close(returned)
				s.ServeConn(b)
				locked <- lockedToThread()
			}()
			proveQuick(t, s, c)
			time.Sleep(2 * lockCheckTime) // the next check of locks is due
			for range 2 {
				_, _ = call(t, c, what)
				if out, err := call(t, c, "x"); err != nil || out != "x" {
					t.Fatalf("%q, %v", out, err)
				}
			}
			select {
			case <-returned:
				t.Error("ServeConn has returned, or its goroutine has ended")
			default:
			}
			c.Close()
			<-returned
			select {
			case is := <-locked:
				if is {
					t.Error("the caller's goroutine is locked")
				}
			default:
				t.Error("the caller's goroutine has ended")
			}
		})
	}
}

func TestLockedToThread(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if lockedToThread() {
			t.Error("locked, at first")
		}
		runtime.LockOSThread()
		if !lockedToThread() {
			t.Error("not locked")
		}
		runtime.LockOSThread()
		runtime.UnlockOSThread()
		if !lockedToThread() {
			t.Error("not locked, after the inner one of two")
		}
		runtime.UnlockOSThread()
		if lockedToThread() {
			t.Error("locked, in the end")
		}
	}()
	<-done
}
