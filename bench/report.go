package main

func writeReport(name string, results []result) error { return nil }
func writeFigures(dir string, results []result) error { return nil }
