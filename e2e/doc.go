// Package e2e proves the flush package on real servers: its tests start nginx,
// Apache, HAProxy, PHP and Chromium, put the same handler behind, beside and
// under them, and look at the bytes. Start it with ./run.
package e2e
