// Package bulk encodes the messages that carry data: exec's input and output,
// pieces of files, segments of connections. In protobuf each of them is a oneof
// with one member that is mostly a bytes field, beside members for control. A
// [Frame] is such a message with the data left where it is, which is how rpc
// carries it without copies (rpc.BytesMessage). The encoding is the same as that
// of the generated message: either side may use either.
package bulk
