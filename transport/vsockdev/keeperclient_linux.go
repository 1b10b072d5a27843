package vsockdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A keeperClient is a device's connection to its keeper. A nil one does
// nothing.
type keeperClient struct {
	*portTable
	conn  *net.UnixConn
	left  []key // connections of the device before
	state *kept // what that left, or nil
	fds   []int
}

// connectKeeper takes what the keeper has.
func connectKeeper(file *os.File, connections int) (*keeperClient, error) {
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("vsockdev: keeper: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("vsockdev: no keeper's file")
	}
	k := &keeperClient{conn: conn}
	state, fds, err := receiveState(conn)
	if err == nil && len(fds) == 0 {
		err = errors.New("no table")
	}
	if err == nil {
		k.portTable, k.left, err = openTable(fds[0], connections)
	}
	if err == nil {
		unix.Close(fds[0])
		fds = fds[1:]
		err = json.Unmarshal(state, &k.state)
	}
	if err != nil {
		closeAll(fds)
		conn.Close()
		return nil, fmt.Errorf("vsockdev: keeper: %w", err)
	}
	k.fds = fds
	return k, nil
}

// front returns the front end that the device before had, or nil, and what makes
// a session go on with it.
func (k *keeperClient) front() (*net.UnixConn, func(*session) error) {
	if k == nil || k.state == nil || len(k.fds) == 0 {
		return nil, nil
	}
	state, fds := k.state, k.fds[1:]
	f := os.NewFile(uintptr(k.fds[0]), "front end")
	k.state, k.fds = nil, nil
	defer f.Close()
	c, err := net.FileConn(f)
	u, ok := c.(*net.UnixConn)
	if err != nil || !ok {
		closeAll(fds)
		return nil, nil
	}
	return u, func(s *session) error {
		if err := s.setup.restore(state, fds); err != nil {
			return err
		}
		// The guest has connections that nobody here knows.
		for _, l := range k.left {
			h := s.headerOf(&link{key: l})
			h.op = opReset
			s.resets = append(s.resets, h)
		}
		s.dev.log.Info("going on with the VM of the device before", "connections", len(k.left))
		// An interrupt may be lost that was due when it ended.
		s.setup.interrupt(rxRing)
		s.setup.interrupt(txRing)
		return nil
	}
}

// keep tells the keeper what the front end has said. The loop calls it, so that
// no descriptor is closed meanwhile.
func (k *keeperClient) keep(s *setup, front *net.UnixConn) {
	if k == nil {
		return
	}
	rc, err := front.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		state, fds := s.describe(int(fd))
		if b, err := json.Marshal(state); err == nil {
			_ = sendState(k.conn, b, fds) // one that is gone ends this process too
		}
	})
}

// forget tells the keeper that there is no front end.
func (k *keeperClient) forget() {
	if k != nil {
		_ = sendState(k.conn, []byte("null"), nil)
	}
}

// add notes a connection.
func (k *keeperClient) add(p key) int {
	if k == nil {
		return -1
	}
	return k.portTable.add(p)
}

// remove forgets one.
func (k *keeperClient) remove(slot int) {
	if k != nil {
		k.portTable.remove(slot)
	}
}

// isEnd reports whether the other side of a socket has closed it.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET)
}
