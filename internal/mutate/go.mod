module github.com/vsockrpc/vsockrpc/internal/mutate

go 1.26.0
