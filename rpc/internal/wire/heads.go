package wire

import (
	"math"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Open is the head of an OPEN.
type Open struct {
	Method, Codec, Authority string
	Timeout                  time.Duration
	Expired                  bool // there is a timeout, of 0
	Md                       metadata.MD
	Size                     int // of md, without what HELLO adds to it
}

func ParseOpen(head []byte) (o Open, err error) {
	for len(head) > 0 {
		var tag byte
		var v []byte
		if tag, v, head, err = NextItem(head); err != nil {
			return o, err
		}
		switch tag {
		case TagMethod:
			o.Method = string(v)
		case TagCodec:
			o.Codec = string(v)
		case TagAuthority:
			o.Authority = Clip(string(v), MaxAuthority)
		case TagTimeout:
			n, err := uintItem(v)
			if err != nil {
				return o, err
			}
			o.Timeout, o.Expired = timeoutOf(n), n == 0
		case TagMetadata:
			if o.Md, err = parseMetadata(v); err != nil {
				return o, err
			}
			o.Size = MetadataSize(o.Md)
		}
	}
	return o, nil
}

// End is the head of an END or a HEADER.
type End struct {
	Md, Trailer metadata.MD
	Code        codes.Code
	Text        string
	details     []byte
}

func ParseEnd(head []byte) (e End, err error) {
	for len(head) > 0 {
		var tag byte
		var v []byte
		if tag, v, head, err = NextItem(head); err != nil {
			return e, err
		}
		switch tag {
		case TagMetadata:
			e.Md, err = parseMetadata(v)
		case TagTrailer:
			e.Trailer, err = parseMetadata(v)
		case TagCode:
			var n uint64
			n, err = uintItem(v)
			if e.Code = codes.Code(n); n > math.MaxInt32 {
				e.Code = codes.Unknown
			}
		case TagMessage:
			e.Text = ValidText(string(v))
		case TagDetails:
			e.details = append([]byte(nil), v...)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// Err returns the status as an error, nil for OK.
func (e *End) Err() error {
	if e.Code == codes.OK {
		return nil
	}
	p := &spb.Status{Code: int32(e.Code), Message: e.Text}
	if e.details != nil {
		var d spb.Status
		if proto.Unmarshal(e.details, &d) == nil {
			p.Details = d.Details
		}
	}
	return status.ErrorProto(p)
}
