// Package suite has nothing of its own: the folders below it hold the tests that
// look at the whole library from outside and are too large to stand beside it.
//
//	docs          the documents say what the code says, and their code runs
//	differential  a wrapped handler is told from a bare one by nothing but the rules
//	php           buffers do what PHP's do, case by case and against a model
package suite
