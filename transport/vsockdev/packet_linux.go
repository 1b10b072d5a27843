package vsockdev

import "encoding/binary"

// The packets of VIRTIO 1.2, section 5.10.6: a header of 44 bytes, little
// endian, and for opRW the bytes of the stream.
const headerSize = 44

// Operations.
const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// typeStream is the only type of socket that the device has.
const typeStream = 1

// Flags of opShutdown: what the sender will not do any more.
const (
	shutRecv = 1
	shutSend = 2
	shutBoth = shutRecv | shutSend
)

// cidHost is the host's CID.
const cidHost = 2

// A header is what stands before a packet's bytes.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
}

// decodeHeader reads a header from b, which has headerSize bytes.
func decodeHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(b), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		len: le.Uint32(b[24:]),
		typ: le.Uint16(b[28:]), op: le.Uint16(b[30:]),
		flags:    le.Uint32(b[32:]),
		bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}
}

// encode writes h to b, which has headerSize bytes.
func (h *header) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.len)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

// reset returns the answer to a packet that belongs to no connection.
func (h *header) reset() header {
	return header{
		srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort,
		typ: h.typ, op: opReset,
	}
}
