module dinghy

go 1.26
