package rpc

import (
	"context"
	"math"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// callInfo is what the options of a call say.
type callInfo struct {
	waitForReady bool
	maxRecv      int
	maxSend      int
	creds        credentials.PerRPCCredentials
	authority    string
	codec        callCodec
	codecName    string // the content subtype; "" means proto
	observed     bool   // an option wants to know how the call went
}

// apply reads the options. Those it does not know are ignored, as they are about
// HTTP/2: compressors too, since every message is sent as it is (identity).
func (ci *callInfo) apply(opts []grpc.CallOption) error {
	ci.maxRecv, ci.maxSend = DefaultMaxRecvMsgSize, math.MaxInt32
	var forced encoding.CodecV2
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.FailFastCallOption:
			ci.waitForReady = !o.FailFast
		case grpc.MaxRecvMsgSizeCallOption:
			ci.maxRecv = o.MaxRecvMsgSize
		case grpc.MaxSendMsgSizeCallOption:
			ci.maxSend = o.MaxSendMsgSize
		case grpc.PerRPCCredsCallOption:
			ci.creds = o.Creds
		case grpc.AuthorityOverrideCallOption:
			ci.authority = o.Authority
		case grpc.ContentSubtypeCallOption:
			ci.codecName = strings.ToLower(o.ContentSubtype)
		case grpc.ForceCodecCallOption:
			forced = codecV1{o.Codec}
		case grpc.ForceCodecV2CallOption:
			forced = o.CodecV2
		case grpc.CustomCodecCallOption:
			forced = codecV0{o.Codec}
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			ci.observed = true
		}
	}
	return ci.setCodec(forced)
}

// setCodec finds the codec of the call.
func (ci *callInfo) setCodec(forced encoding.CodecV2) error {
	if forced != nil {
		if ci.codecName == "" {
			ci.codecName = strings.ToLower(forced.Name())
		}
		if _, own := forced.(codec); !own {
			ci.codec.v2 = forced
		}
		return nil
	}
	if ci.codecName == "" || ci.codecName == "proto" {
		return nil
	}
	v2, ok := findCodec(ci.codecName)
	if !ok {
		return status.Errorf(codes.Internal, "rpc: no codec is registered for content-subtype %s", ci.codecName)
	}
	ci.codec.v2 = v2
	return nil
}

// findCodec returns the codec registered with gRPC under that name.
func findCodec(name string) (encoding.CodecV2, bool) {
	if v2 := encoding.GetCodecV2(name); v2 != nil {
		return v2, true
	}
	if v1 := encoding.GetCodec(name); v1 != nil {
		return codecV1{v1}, true
	}
	return nil, false
}

// codecV0 is a grpc.Codec, which came before encoding.Codec.
type codecV0 struct{ grpc.Codec }

func (c codecV0) Name() string { return strings.ToLower(c.String()) }

func (c codecV0) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.Codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (c codecV0) Unmarshal(data mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(data.Materialize(), v)
}

// observe tells the options of a call how it went.
func observe(opts []grpc.CallOption, header, trailer metadata.MD, p *peer.Peer) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = trailer
		case grpc.PeerCallOption:
			if p != nil {
				*o.PeerAddr = *p
			}
		}
	}
}

// onFinish calls the OnFinish options.
func onFinish(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

// requestMetadata returns the metadata that a call of method takes along, nil if
// there is none.
func (c *Client) requestMetadata(ctx context.Context, method string, ci *callInfo, cc *clientConn) (metadata.MD, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	for k := range md {
		if reserved(k) {
			delete(md, k)
		}
	}
	for _, creds := range [...]credentials.PerRPCCredentials{c.cfg.PerRPCCredentials, ci.creds} {
		if creds == nil {
			continue
		}
		more, err := c.credentialMetadata(ctx, method, ci, cc, creds)
		if err != nil {
			return nil, err
		}
		if md == nil {
			md = metadata.MD{}
		}
		for k, v := range more {
			md.Append(k, v)
		}
	}
	if len(md) == 0 {
		return nil, nil
	}
	if bad := wire.CheckMetadata(md); bad != "" {
		return nil, status.Error(codes.Internal, "rpc: "+bad)
	}
	limit := maxMetadata
	if n := int(cc.headerLimit.Load()); n > 0 {
		limit = min(limit, n)
	}
	if n := wire.MetadataSize(md); n > limit {
		return nil, status.Errorf(codes.ResourceExhausted, "rpc: metadata of %d bytes, more than the %d the server takes", n, limit)
	}
	return md, nil
}

// credentialMetadata asks creds what to send, if it may be sent on cc.
func (c *Client) credentialMetadata(ctx context.Context, method string, ci *callInfo, cc *clientConn, creds credentials.PerRPCCredentials) (map[string]string, error) {
	if creds.RequireTransportSecurity() && c.cfg.TLS == nil {
		return nil, status.Error(codes.Unauthenticated, "rpc: cannot send secure credentials on a connection without TLS")
	}
	authority := c.cfg.Authority
	if ci.authority != "" {
		authority = ci.authority
	}
	service := method
	if i := strings.LastIndexByte(method, '/'); i >= 0 {
		service = method[:i]
	}
	ctx = credentials.NewContextWithRequestInfo(ctx, credentials.RequestInfo{Method: method, AuthInfo: cc.peerInfo.AuthInfo})
	md, err := creds.GetRequestMetadata(ctx, "https://"+authority+service)
	if err != nil {
		if st, ok := status.FromError(err); ok {
			return nil, st.Err()
		}
		return nil, status.Errorf(codes.Unauthenticated, "rpc: per-call credentials failed: %v", err)
	}
	return md, nil
}

// reserved reports whether a metadata key is not the application's to send.
func reserved(k string) bool {
	switch k {
	case "content-type", "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message", "grpc-status", "grpc-timeout", "te":
		return true
	}
	return strings.HasPrefix(k, ":")
}
