module github.com/fa492104/flush/bench

go 1.25

require (
	github.com/fa492104/flush v0.0.0
	github.com/klauspost/compress v1.20.3
)

replace github.com/fa492104/flush => ../
