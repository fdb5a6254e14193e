module github.com/fa492104/flush

go 1.25
