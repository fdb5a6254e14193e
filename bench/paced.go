package main

import "io"

func readPaced(addr string, in io.Reader, out io.Writer) {}
