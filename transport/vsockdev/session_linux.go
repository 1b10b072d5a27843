package vsockdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// Tokens of what the loop watches; those of links are their descriptors.
const (
	tokenWake = -1
	tokenKick = -2
)

// lateInterrupt is how many milliseconds after the last event the guest is told
// that its packets were taken.
const lateInterrupt = 1

// A session is one front end's: from its connection to its end. One goroutine,
// the loop, owns all of the guest's state and never waits but for events;
// others have it run functions (do, post).
type session struct {
	dev   *Device
	setup *setup
	epoll int
	ctx   context.Context // ends with the session
	stop  context.CancelCauseFunc

	links   map[key]*link
	byFD    []*link
	queue   []*link  // those with something for the guest, in turn
	resets  []header // to the guest, of no connection
	waiting []*link  // closed by the host, in the order of that
	budget  budget
	pending int // requests of the guest that are not answered yet
	ports   ports

	vectors vectors
	tx      txBatch
	rx      rxBatch
	broken  bool // a ring broke: nothing is done until the guest starts anew
	late    bool // the guest has not been told yet that packets of its were taken

	mailbox mailbox
	done    chan struct{} // closed when the loop has ended
}

// mailbox is what others want of the loop.
type mailbox struct {
	mu     sync.Mutex
	calls  []func()
	closed bool
	wakeFD int
}

func newSession(d *Device) (*session, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s := &session{dev: d, epoll: epoll, links: make(map[key]*link), budget: newBudget(&d.cfg), done: make(chan struct{})}
	s.mailbox.wakeFD = wake
	s.ports.start()
	s.setup = newSetup(epoll, s.guestReset)
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: tokenWake}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &ev); err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return s, nil
}

// post has the loop run f soon. It reports false if the loop has ended.
func (s *session) post(f func()) bool {
	m := &s.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.calls = append(m.calls, f)
	if len(m.calls) == 1 {
		_, _ = unix.Write(m.wakeFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	return true
}

// do has the loop run f, and waits for it.
func (s *session) do(f func()) error {
	ran := make(chan struct{})
	if s.post(func() { f(); close(ran) }) {
		select {
		case <-ran:
			return nil
		case <-s.done:
		}
	}
	return context.Cause(s.ctx)
}

// kill ends the session, for a reason that calls and connections get.
func (s *session) kill(reason error) {
	s.stop(reason)
	s.post(func() {}) // wakes the loop
}

// serve answers the front end's messages until it ends, which is no error.
func (s *session) serve(c *net.UnixConn) error {
	go s.loop()
	defer func() { <-s.done }()
	defer context.AfterFunc(s.ctx, func() { c.Close() })()
	for {
		m, err := readMessage(c)
		if err != nil {
			if cause := context.Cause(s.ctx); cause != nil {
				return cause // the device's own end keeps the front end
			}
			s.dev.keeper.forget()
			s.kill(ErrNoGuest)
			if isEnd(err) {
				return nil
			}
			return err
		}
		if err := s.answer(c, m); err != nil {
			s.dev.keeper.forget()
			s.kill(fmt.Errorf("%w: %w", ErrNoGuest, err))
			return err
		}
	}
}

// answer has the loop do what a message asks for, and replies.
func (s *session) answer(c *net.UnixConn, m *message) error {
	var reply []byte
	var failed error
	err := s.do(func() {
		reply, failed = s.setup.handle(m, s.dev.cfg.CID)
		s.dev.keeper.keep(s.setup, c)
	})
	m.close()
	if err != nil {
		return err
	}
	if failed != nil {
		s.dev.log.Warn("vhost-user request failed", "request", m.request, "err", failed)
	}
	switch {
	case reply != nil:
		return writeReply(c, m.request, reply)
	case m.needReply:
		var status uint64
		if failed != nil {
			status = 1
		}
		return writeReply(c, m.request, replyU64(status))
	}
	return failed
}

// loop runs until the session's context ends.
func (s *session) loop() {
	defer close(s.done)
	defer s.end()
	// The front end may make the file shorter that is the guest's memory; what
	// touches the rest then panics.
	debug.SetPanicOnFault(true)
	defer func() {
		if r := recover(); r != nil {
			err, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			s.stop(fmt.Errorf("%w: its memory is gone at %#x", ErrNoGuest, err.Addr()))
			s.dev.log.Warn("the guest's memory is gone")
		}
	}()
	events := make([]unix.EpollEvent, 128)
	for s.ctx.Err() == nil {
		timeout := -1
		if s.work() {
			timeout = 0
		} else if s.late {
			timeout = lateInterrupt
		}
		n, err := unix.EpollWait(s.epoll, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			s.stop(fmt.Errorf("%w: epoll: %w", ErrNoGuest, err))
			return
		}
		if n == 0 && timeout > 0 {
			s.interruptLate()
		}
		for _, ev := range events[:max(n, 0)] {
			s.event(ev)
		}
		s.runCalls()
	}
}

// event notes what a descriptor is ready for.
func (s *session) event(ev unix.EpollEvent) {
	if ev.Fd < 0 || int(ev.Fd) >= len(s.byFD) || s.byFD[ev.Fd] == nil {
		return // it was enough to be woken
	}
	l := s.byFD[ev.Fd]
	if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 && l.peerShut&shutRecv == 0 && l.shut&shutSend == 0 {
		l.readable = true
	}
	if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		l.readEnd = true
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 && l.shut&shutRecv == 0 {
		l.writable = true
	}
	if ev.Events&unix.EPOLLHUP != 0 {
		l.gone = true
	}
	s.after(l)
}

// runCalls runs what others have posted.
func (s *session) runCalls() {
	m := &s.mailbox
	m.mu.Lock()
	calls := m.calls
	m.calls = nil
	m.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

// work does what there is to do, a bounded part of it, and reports whether
// there is more.
func (s *session) work() (more bool) {
	if s.broken {
		return false
	}
	tx, rx := s.setup.running(txRing), s.setup.running(rxRing)
	if tx == nil || rx == nil {
		return false
	}
	moreTX, err := s.fromGuest(tx)
	var moreRX bool
	if err == nil {
		moreRX, err = s.toGuest(rx)
	}
	if err != nil {
		s.breakRings(err)
		return false
	}
	if rx.show() > 0 && rx.wantsInterrupt() {
		s.setup.interrupt(rxRing)
	}
	// That its packets were taken is no news to the guest as long as it has room
	// for more, and each interrupt costs it more than a packet.
	given := tx.show()
	s.late = given > 0
	if given >= int(tx.num)/4 {
		s.interruptLate()
	}
	// Answers that found no room held up what the guest sends.
	return moreTX && len(s.resets) < maxResets || moreRX
}

// interruptLate tells the guest that its packets were taken, if it wants to know.
func (s *session) interruptLate() {
	s.late = false
	if tx := s.setup.running(txRing); tx != nil && tx.wantsInterrupt() {
		s.setup.interrupt(txRing)
	}
}

// breakRings gives the guest up that has broken the protocol, until its driver
// starts anew.
func (s *session) breakRings(err error) {
	s.dev.log.Warn("the guest breaks the rings", "err", err)
	s.broken = true
	s.endLinks(fmt.Errorf("%w: %w", ErrReset, err))
}

// guestReset forgets everything: the guest's driver starts anew.
func (s *session) guestReset() {
	s.broken = false
	s.endLinks(ErrReset)
	s.resets = nil
}

// end gives everything back. Nobody else has the session any more.
func (s *session) end() {
	s.mailbox.mu.Lock()
	s.mailbox.closed = true
	s.mailbox.mu.Unlock()
	s.runCalls() // some hold descriptors
	s.endLinks(context.Cause(s.ctx))
	s.setup.close()
	unix.Close(s.epoll)
	unix.Close(s.mailbox.wakeFD)
}
