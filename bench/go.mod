module github.com/fa492104/flush/bench

go 1.25

require github.com/fa492104/flush v0.0.0

replace github.com/fa492104/flush => ../
