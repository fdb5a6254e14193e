package flushdebug

var Size, Span = size, span
