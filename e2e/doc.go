// Package e2e proves the flush package on real servers: its tests start nginx,
// Apache, HAProxy, PHP, Chromium and others, put the same handler behind, beside
// and under them, and look at the bytes. Start it with ./run.
package e2e
