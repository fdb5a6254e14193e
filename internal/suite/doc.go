// Package suite has nothing of its own: the folders below it hold the tests that
// look at the whole library from outside and are too large to stand beside it.
//
//	docs          the documents say what the code says, and their code runs
//	differential  a wrapped handler is told from a bare one by nothing but the rules
//	php           buffers do what PHP's do, case by case and against a model
//	edges         where two things meet: a wait and its end, a call and another
//	many          many responses: under one bound, honest and hostile, and told the same
//	hammer        many things at once, in random order, with oracles
package suite
