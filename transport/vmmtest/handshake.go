package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// maxLine is the longest CONNECT line, with its line feed, that is read.
const maxLine = 32

const (
	garbage  = "HTTP/1.1 400 Bad Request\r\n\r\n"
	glueWait = 5 * time.Second
)

var errBadRequest = errors.New("not a CONNECT line")

// readConnect reads "CONNECT <port>\n" and not a byte more. As in Firecracker,
// the word may be in any case, there may be more white space, and words after
// the port are ignored.
func readConnect(r io.Reader) (uint32, error) {
	var line [maxLine]byte
	for n := range line {
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return 0, err
		}
		if line[n] == '\n' {
			return parseConnect(string(line[:n]))
		}
	}
	return 0, errBadRequest
}

func parseConnect(line string) (uint32, error) {
	words := strings.Fields(line)
	if len(words) < 2 || !strings.EqualFold(words[0], "connect") {
		return 0, errBadRequest
	}
	port, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil {
		return 0, errBadRequest
	}
	return uint32(port), nil
}

// serve serves a connection of the host.
func (v *VMM) serve(l *link) {
	if v.full() {
		v.refused.Add(1)
		l.reset() // without reading: the host may see either
		return
	}
	if !v.answer(l) {
		v.refused.Add(1)
		l.close()
		return
	}
	l.run()
}

// answer reads CONNECT and answers it. It returns false if the connection is
// not to be.
func (v *VMM) answer(l *link) bool {
	port, err := readConnect(l.host)
	if err != nil || !v.admit(l) {
		return false
	}
	v.allot(l)

	ctx, cancel := context.WithTimeout(v.ctx, v.config.RequestTimeout)
	defer cancel()
	m := v.waitMode(ctx, l.done, func(m *mode) bool { return !m.paused })
	if m == nil {
		return false
	}
	switch m.Handshake {
	case HandshakeOK, HandshakeGlued, HandshakeBytewise:
	default:
		v.misanswer(l, m)
		return false
	}
	v.mu.Lock()
	t := v.targets[port]
	v.mu.Unlock()
	if t == nil {
		return false
	}
	guest, err := t.connect(ctx, l.number)
	return err == nil && l.join(guest, m.Seed) && v.sendOK(l, m)
}

// misanswer answers CONNECT wrongly or not at all.
func (v *VMM) misanswer(l *link, m *mode) {
	if m.Handshake != HandshakeSilent && !l.sleep(m.HandshakeDelay) {
		return
	}
	switch m.Handshake {
	case HandshakeSilent:
		io.Copy(io.Discard, l.host) // until the host gives up
	case HandshakeReset:
		l.reset()
	case HandshakeCut:
		ok := okLine(l.number)
		l.host.Write(ok[:len(ok)/2])
	case HandshakeGarbage:
		text := m.HandshakeText
		if text == "" {
			text = garbage
		}
		io.WriteString(l.host, text)
		io.Copy(io.Discard, l.host)
	}
}

// sendOK tells the host that the guest has accepted. It returns false if there
// is no connection any more.
func (v *VMM) sendOK(l *link, m *mode) bool {
	ok := okLine(l.number)
	switch m.Handshake {
	case HandshakeGlued:
		ok = append(ok, v.firstBytes(l, m.HandshakeDelay)...)
	case HandshakeBytewise:
		for ; len(ok) > 1; ok = ok[1:] {
			if !l.sleep(m.HandshakeDelay) {
				return false
			}
			if _, err := l.host.Write(ok[:1]); err != nil {
				return false
			}
		}
		fallthrough
	default:
		if !l.sleep(m.HandshakeDelay) {
			return false
		}
	}
	// From here on the guest has the connection, even if the host has gone.
	v.establish(l, &v.fromHost)
	if _, err := l.host.Write(ok); err != nil {
		l.close()
	}
	return true
}

// firstBytes waits for the first bytes that the guest sends.
func (v *VMM) firstBytes(l *link, wait time.Duration) []byte {
	if wait == 0 {
		wait = glueWait
	}
	p := l.pumps[1]
	first := make([]byte, minRing)
	p.src.SetReadDeadline(time.Now().Add(wait))
	n, _ := p.src.Read(first) // an error comes again when the pump reads
	p.src.SetReadDeadline(time.Time{})
	p.passed.Add(int64(n))
	p.total.Add(int64(n))
	return first[:n]
}

func okLine(port uint32) []byte { return fmt.Appendf(nil, "OK %d\n", port) }
