# CAs and certificates, made with openssl.

set ::ec {-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes}

# A CA in that directory, as NAME.crt and NAME.key.
proc make_ca {directory name} {
    exec openssl req -x509 {*}$::ec -days 2 -subj "/CN=$name" -keyout $directory/$name.key -out $directory/$name.crt 2>@1
}

# A certificate of that CA, as NAME.crt and NAME.key. In place of one that was there, at once.
proc make_certificate {directory ca name alternatives} {
    exec openssl req -x509 {*}$::ec -days 2 -subj "/CN=$name" -CA $directory/$ca.crt -CAkey $directory/$ca.key \
        -addext subjectAltName=$alternatives -addext basicConstraints=critical,CA:FALSE \
        -keyout $directory/$name.new.key -out $directory/$name.new.crt 2>@1
    file rename -force $directory/$name.new.key $directory/$name.key
    file rename -force $directory/$name.new.crt $directory/$name.crt
}
