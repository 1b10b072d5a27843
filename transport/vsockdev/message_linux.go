package vsockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst).
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqSetBackendReqFD     = 21
	reqGetConfig           = 24
	reqSetConfig           = 25
	reqGetMaxMemSlots      = 36
	reqAddMemRegion        = 37
	reqRemMemRegion        = 38
	reqSetStatus           = 39
	reqGetStatus           = 40
)

// Bits of the features: VIRTIO's, and the one that says that there are
// features of the protocol.
const (
	featureIndirect = 1 << 28
	featureEventIdx = 1 << 29
	featureProtocol = 1 << 30
	featureVersion1 = 1 << 32

	features = featureIndirect | featureEventIdx | featureProtocol | featureVersion1
)

// protocolFeatures are those of the protocol that the device has. What is left
// out on purpose: in-flight tracking, since the used ring says it all (see
// ring), and in-band notifications, with which each kick of a User-mode Linux
// waits for an answer.
const protocolFeatures = 1<<0 | // MQ
	1<<3 | // REPLY_ACK
	1<<5 | // BACKEND_REQ
	1<<9 | // CONFIG
	1<<15 | // CONFIGURE_MEM_SLOTS
	1<<16 // STATUS

const (
	messageHeader = 12
	maxPayload    = 4096
	maxFDs        = 32

	versionMask   = 3
	version       = 1
	flagReply     = 4
	flagNeedReply = 8
)

// A message is one of the front end's. Its descriptors belong to the holder of
// the message until they are taken out of it.
type message struct {
	request   uint32
	needReply bool
	payload   []byte
	fds       []int
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// takeFD takes the only descriptor of a message out of it.
func (m *message) takeFD() (int, error) {
	if len(m.fds) != 1 {
		return -1, fmt.Errorf("request %d with %d descriptors", m.request, len(m.fds))
	}
	fd := m.fds[0]
	m.fds = nil
	return fd, nil
}

// u64 returns the payload of a message that is one number.
func (m *message) u64() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, m.sizeError()
	}
	return binary.NativeEndian.Uint64(m.payload), nil
}

// state returns the payload of a message about a ring.
func (m *message) state() (index, num uint32, err error) {
	if len(m.payload) != 8 {
		return 0, 0, m.sizeError()
	}
	return binary.NativeEndian.Uint32(m.payload), binary.NativeEndian.Uint32(m.payload[4:]), nil
}

func (m *message) sizeError() error {
	return fmt.Errorf("request %d of %d bytes", m.request, len(m.payload))
}

// readMessage reads one message. The error is io.EOF if the front end ended
// between two.
func readMessage(c *net.UnixConn) (m *message, err error) {
	m = new(message)
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	var head [messageHeader]byte
	if err := m.readFull(c, head[:]); err != nil {
		return m, err
	}
	ne := binary.NativeEndian
	m.request = ne.Uint32(head[:])
	flags, size := ne.Uint32(head[4:]), ne.Uint32(head[8:])
	if flags&versionMask != version || flags&flagReply != 0 || size > maxPayload {
		return m, fmt.Errorf("request %d with flags %#x and %d bytes", m.request, flags, size)
	}
	m.needReply = flags&flagNeedReply != 0
	m.payload = make([]byte, size)
	if err := m.readFull(c, m.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return m, err
	}
	return m, nil
}

// readFull fills b, and collects the descriptors that come with it.
func (m *message) readFull(c *net.UnixConn, b []byte) error {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for got := 0; got < len(b); {
		n, oobn, flags, _, err := c.ReadMsgUnix(b[got:], oob)
		fds, fdErr := parseFDs(oob[:oobn])
		m.fds = append(m.fds, fds...)
		switch {
		case err != nil:
			return err
		case fdErr != nil:
			return fdErr
		case flags&unix.MSG_CTRUNC != 0 || len(m.fds) > maxFDs:
			return fmt.Errorf("a request with more than %d descriptors", maxFDs)
		case n == 0 && got == 0:
			return io.EOF
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		got += n
	}
	return nil
}

// parseFDs returns the descriptors in a control message.
func parseFDs(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// writeReply answers a request.
func writeReply(c *net.UnixConn, request uint32, payload []byte) error {
	b := make([]byte, messageHeader, messageHeader+len(payload))
	ne := binary.NativeEndian
	ne.PutUint32(b, request)
	ne.PutUint32(b[4:], version|flagReply) // UML takes no other flags
	ne.PutUint32(b[8:], uint32(len(payload)))
	_, err := c.Write(append(b, payload...))
	return err
}

// replyU64 returns the payload of an answer that is one number.
func replyU64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }
