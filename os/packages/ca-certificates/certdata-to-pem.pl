#!/usr/bin/perl
# certdata-to-pem.pl CERTDATA: print, as PEM, every certificate of NSS's
# certdata.txt that is trusted to sign for TLS servers, sorted by label.
use strict;
use warnings;
use Digest::SHA qw(sha1);
use MIME::Base64 qw(encode_base64);

my (%certs, %trusted, %object);

sub finish {
    my $class = $object{CKA_CLASS} // '';
    if ($class eq 'CKO_CERTIFICATE') {
        $certs{ sha1($object{CKA_VALUE}) } = [ $object{CKA_LABEL}, $object{CKA_VALUE} ];
    } elsif ($class eq 'CKO_NSS_TRUST' && ($object{CKA_TRUST_SERVER_AUTH} // '') eq 'CKT_NSS_TRUSTED_DELEGATOR') {
        $trusted{ $object{CKA_CERT_SHA1_HASH} } = 1;
    }
    %object = ();
}

while (my $line = <>) {
    chomp $line;
    next if $line =~ /^(#|\s*$|BEGINDATA)/;
    my ($name, $type, $value) = split ' ', $line, 3;
    finish() if $name eq 'CKA_CLASS';
    if ($type eq 'MULTILINE_OCTAL') {
        my $bytes = '';
        while ($line = <>) {
            last if $line =~ /^END/;
            $bytes .= chr(oct($1)) while $line =~ /\\([0-7]{3})/g;
        }
        $object{$name} = $bytes;
    } else {
        $value //= '';
        $value =~ s/^"(.*)"$/$1/;
        $object{$name} = $value;
    }
}
finish();

my @out = sort { $a->[0] cmp $b->[0] || $a->[1] cmp $b->[1] } map { $certs{$_} } grep { $certs{$_} } keys %trusted;
die "certdata-to-pem: only " . @out . " trusted certificates found\n" if @out < 50;
for (@out) {
    my ($label, $der) = @$_;
    print "# $label\n-----BEGIN CERTIFICATE-----\n", join('', map { "$_\n" } unpack('(A64)*', encode_base64($der, ''))), "-----END CERTIFICATE-----\n";
}
