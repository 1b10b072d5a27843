package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The raw peers are the limits: what the socket and Go's poller allow if the
// stack costs nothing. A frame is two big-endian uint32, length and id, and
// the payload. The ids below are not calls.
const (
	rawHeader = 8
	rawDown   = 0xffffffff - iota // payload: a downRequest
	rawUp                         // empty: what follows is a stream
	rawEnd                        // empty: the stream has ended
)

const (
	rawFirstBuffer = 4 << 10   // so that a new connection costs little
	rawMaxBuffer   = 256 << 10 // more than a Unix socket holds
	rawBatchSize   = 64 << 10
)

var (
	rawPingPong = &peer{
		name:    "raw-pp",
		about:   "length-prefixed ping-pong, one goroutine a side: the limit for one caller",
		serve:   serveRaw,
		connect: func(path string) (client, error) { return dialRaw(path) },
	}
	rawMux = &peer{
		name:    "raw-mux",
		about:   "N goroutines, a combining writer, one reader; the server answers in batches: the limit for N callers",
		serve:   serveRaw,
		connect: connectRawMux,
	}
	rawBatch = &peer{
		name:    "raw-batch",
		about:   "messages in writes of 64 KiB, no flow control: the limit for streams",
		serve:   serveRaw,
		connect: func(path string) (client, error) { return dialRaw(path) },
	}
)

func putRawHeader(b []byte, size int, id uint32) {
	binary.BigEndian.PutUint32(b, uint32(size))
	binary.BigEndian.PutUint32(b[4:], id)
}

func serveRaw(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = serveRawConn(conn) // ends when the client goes
		}()
	}
}

// serveRawConn echoes all whole frames of a read with one write.
func serveRawConn(conn net.Conn) error {
	buf, have := make([]byte, rawFirstBuffer), 0
	for {
		n, err := conn.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		done, need := 0, 0
		for have-done >= rawHeader {
			size := int(binary.BigEndian.Uint32(buf[done:]))
			need = rawHeader + size
			if have-done < need {
				break
			}
			frame := buf[done : done+need]
			switch binary.BigEndian.Uint32(frame[4:]) {
			case rawDown, rawUp:
				// The client sends nothing more until the stream has ended.
				if err := serveRawStream(conn, frame, buf[done+need:have]); err != nil {
					return err
				}
				done, have = 0, 0
				continue
			}
			done += need
		}
		if done > 0 {
			if _, err := conn.Write(buf[:done]); err != nil {
				return err
			}
			have = copy(buf, buf[done:have])
		}
		if need > len(buf) || have == len(buf) || n == len(buf) && n < rawMaxBuffer {
			buf = append(make([]byte, 0, max(need, 2*len(buf))), buf[:have]...)
			buf = buf[:cap(buf)]
		}
	}
}

// serveRawStream carries out the control frame; first is what was read after it.
func serveRawStream(conn net.Conn, control, first []byte) error {
	if binary.BigEndian.Uint32(control[4:]) == rawDown {
		return sendRawStream(conn, control[rawHeader:])
	}
	return receiveRawStream(conn, first)
}

// batchOf returns one write's worth of frames of size bytes, and their number.
func batchOf(size int) ([]byte, int) {
	n := max(1, rawBatchSize/(rawHeader+size))
	b := make([]byte, n*(rawHeader+size))
	for i := range n {
		putRawHeader(b[i*(rawHeader+size):], size, 0)
	}
	return b, n
}

func sendRawStream(conn net.Conn, req []byte) error {
	payload, more, err := downPayload(req)
	if err != nil {
		return err
	}
	batch, _ := batchOf(len(payload))
	for more() {
		if _, err := conn.Write(batch); err != nil {
			return err
		}
	}
	end := make([]byte, rawHeader)
	putRawHeader(end, 0, rawEnd)
	_, err = conn.Write(end)
	return err
}

// receiveRawStream consumes a stream whose first bytes have been read, and
// answers its end with an end.
func receiveRawStream(conn net.Conn, first []byte) error {
	var s rawScanner
	ended := false
	each := func(id uint32, _ int) { ended = ended || id == rawEnd }
	s.feed(first, each)
	buf := make([]byte, rawMaxBuffer)
	for !ended {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		s.feed(buf[:n], each)
	}
	end := make([]byte, rawHeader)
	putRawHeader(end, 0, rawEnd)
	_, err := conn.Write(end)
	return err
}

// A rawScanner finds the frames in a byte stream without keeping payloads.
type rawScanner struct {
	header [rawHeader]byte
	have   int // bytes of the header
	left   int // bytes of the payload still to come
}

// feed calls each for every frame whose last byte is in b.
func (s *rawScanner) feed(b []byte, each func(id uint32, size int)) {
	for len(b) > 0 {
		if s.have < rawHeader {
			n := copy(s.header[s.have:], b)
			s.have, b = s.have+n, b[n:]
			if s.have < rawHeader {
				return
			}
			s.left = int(binary.BigEndian.Uint32(s.header[:]))
		}
		n := min(s.left, len(b))
		s.left, b = s.left-n, b[n:]
		if s.left == 0 {
			s.have = 0
			each(binary.BigEndian.Uint32(s.header[4:]), int(binary.BigEndian.Uint32(s.header[:])))
		}
	}
}

// rawClient has one caller, who writes and reads the socket itself.
type rawClient struct{ conn net.Conn }

func dialRaw(path string) (*rawClient, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &rawClient{conn}, nil
}

func (c *rawClient) close() error { return c.conn.Close() }

func (c *rawClient) caller(size int) (func() error, error) {
	frame := make([]byte, rawHeader+size)
	putRawHeader(frame, size, 0)
	buf := make([]byte, max(rawFirstBuffer, len(frame)))
	return func() error {
		if _, err := c.conn.Write(frame); err != nil {
			return err
		}
		if n, err := io.ReadAtLeast(c.conn, buf, len(frame)); err != nil {
			return err
		} else if n != len(frame) || binary.BigEndian.Uint32(buf) != uint32(size) {
			return fmt.Errorf("echo of %d bytes has %d", size, n-rawHeader)
		}
		return nil
	}, nil
}

func (c *rawClient) down(size int, d time.Duration) (int, error) {
	req := append(make([]byte, rawHeader), downRequest(size, d)...)
	putRawHeader(req, len(req)-rawHeader, rawDown)
	if _, err := c.conn.Write(req); err != nil {
		return 0, err
	}
	var s rawScanner
	buf := make([]byte, rawMaxBuffer)
	count, ended, bad := 0, false, false
	for !ended {
		n, err := c.conn.Read(buf)
		if err != nil {
			return count, err
		}
		s.feed(buf[:n], func(id uint32, got int) {
			switch {
			case id == rawEnd:
				ended = true
			case got != size:
				bad = true
			default:
				count++
			}
		})
	}
	if bad {
		return count, errors.New("down: message of a wrong length")
	}
	return count, nil
}

func (c *rawClient) up(size int, more func() bool) (int, error) {
	control := make([]byte, rawHeader)
	putRawHeader(control, 0, rawUp)
	if _, err := c.conn.Write(control); err != nil {
		return 0, err
	}
	batch, perBatch := batchOf(size)
	count := 0
	for more() {
		if _, err := c.conn.Write(batch); err != nil {
			return count, err
		}
		count += perBatch
	}
	putRawHeader(control, 0, rawEnd)
	if _, err := c.conn.Write(control); err != nil {
		return count, err
	}
	_, err := io.ReadFull(c.conn, control)
	return count, err
}

// rawMuxClient lets many callers share the connection.
type rawMuxClient struct {
	*rawClient

	mu       sync.Mutex
	callers  []*rawCaller
	out      []byte // frames that wait for the flush
	spare    []byte // the buffer written last
	flushing bool
	err      error // set once, when the connection is lost
}

type rawCaller struct{ answered chan int }

func connectRawMux(path string) (client, error) {
	raw, err := dialRaw(path)
	if err != nil {
		return nil, err
	}
	c := &rawMuxClient{rawClient: raw}
	go c.read()
	return c, nil
}

func (c *rawMuxClient) read() {
	var s rawScanner
	buf := make([]byte, rawMaxBuffer)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			c.mu.Lock()
			c.err = err
			for _, w := range c.callers {
				close(w.answered)
			}
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		callers := c.callers
		c.mu.Unlock()
		s.feed(buf[:n], func(id uint32, size int) { callers[id].answered <- size })
	}
}

func (c *rawMuxClient) caller(size int) (func() error, error) {
	w := &rawCaller{answered: make(chan int, 1)}
	c.mu.Lock()
	id := uint32(len(c.callers))
	c.callers = append(c.callers, w)
	c.mu.Unlock()
	frame := make([]byte, rawHeader+size)
	putRawHeader(frame, size, id)
	return func() error {
		if err := c.send(frame); err != nil {
			return err
		}
		got, ok := <-w.answered
		if !ok {
			return errors.New("connection lost")
		}
		if got != size {
			return fmt.Errorf("echo of %d bytes has %d", size, got)
		}
		return nil
	}, nil
}

// send appends the frame to what the flusher will write next, and is the
// flusher if nobody is.
func (c *rawMuxClient) send(frame []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.out = append(c.out, frame...)
	if c.flushing {
		return nil
	}
	c.flushing = true
	defer func() { c.flushing = false }()
	for len(c.out) > 0 {
		b := c.out
		c.out = c.spare[:0]
		c.mu.Unlock()
		_, err := c.conn.Write(b)
		c.mu.Lock()
		c.spare = b
		if err != nil {
			return err
		}
	}
	return nil
}
