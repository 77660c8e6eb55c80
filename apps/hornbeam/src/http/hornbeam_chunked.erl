%% SPDX-License-Identifier: Apache-2.0

%% @private Decodes a chunked body (RFC 9112 7.1), strictly.
%%
%% Pure, and fed with whatever has come. Lines end with CRLF and nothing else, a size is up to 16
%% hexadecimal digits, chunk extensions are skipped, the trailer section is checked and dropped, and
%% each of the lines has a largest size: a peer that sends no chunks is noticed, at once or within
%% that size.
-module(hornbeam_chunked).

%% API
-export([new/0]).
-export([decode/2]).

-export_type([decoder/0]).

-opaque decoder() ::
    %% What is there of the line with a chunk's size.
    {size, Held :: binary()}
  | {data, LeftBytes :: pos_integer()}
    %% What is there of the CRLF behind a chunk.
  | {data_end, Held :: binary()}
    %% What is there of a trailer line, and how much of trailers may come.
  | {trailers, Held :: binary(), LeftBytes :: non_neg_integer()}.

-define(MAX_SIZE_LINE_BYTES, 1024).
-define(MAX_SIZE_DIGITS, 16).
%% What fits in the signed integers of everybody.
-define(MAX_SIZE, 16#7FFFFFFFFFFFFFFF).
-define(MAX_TRAILERS_BYTES, 16384).

%% @doc The decoder at the beginning of a body.
-spec new() -> decoder().
new() ->
    {size, <<>>}.

%% @doc Take what has come: what it holds of the body, and whether that was the end.
-spec decode(binary(), decoder()) ->
    {more, Body :: binary(), decoder()}
  | {done, Body :: binary(), Rest :: binary()}
  | {error, Why :: binary()}.
decode(Data, Decoder) ->
    decode(Decoder, Data, []).

decode({data, Left}, Data, Parts) ->
    case Data of
        <<Part:Left/binary, Rest/binary>> -> decode({data_end, <<>>}, Rest, [Part | Parts]);
        _ -> more({data, Left - byte_size(Data)}, [Data | Parts])
    end;
decode({data_end, Held}, Data, Parts) ->
    case <<Held/binary, Data/binary>> of
        <<"\r\n", Rest/binary>> -> decode({size, <<>>}, Rest, Parts);
        <<"\r">> -> more({data_end, <<"\r">>}, Parts);
        <<>> -> more({data_end, <<>>}, Parts);
        _ -> {error, <<"a chunk is longer than its size">>}
    end;
decode({size, Held}, Data, Parts) ->
    case line(Held, Data, ?MAX_SIZE_LINE_BYTES) of
        {line, Line, Rest} -> sized(chunk_size(Line), Rest, Parts);
        {held, Bytes} -> more({size, Bytes}, Parts);
        error -> {error, <<"the line with a chunk's size is malformed">>}
    end;
decode({trailers, Held, Left}, Data, Parts) ->
    case line(Held, Data, Left) of
        {line, <<>>, Rest} ->
            {done, body(Parts), Rest};
        {line, Line, Rest} ->
            case is_field(Line) of
                true -> decode({trailers, <<>>, Left - byte_size(Line)}, Rest, Parts);
                false -> {error, <<"a trailer is malformed">>}
            end;
        {held, Bytes} ->
            more({trailers, Bytes, Left}, Parts);
        error ->
            {error, <<"the trailer section is malformed or too large">>}
    end.

sized({ok, 0}, Rest, Parts) -> decode({trailers, <<>>, ?MAX_TRAILERS_BYTES}, Rest, Parts);
sized({ok, Size}, Rest, Parts) -> decode({data, Size}, Rest, Parts);
sized(error, _, _) -> {error, <<"the size of a chunk is not a number">>}.

more(Decoder, Parts) ->
    {more, body(Parts), Decoder}.

body([]) -> <<>>;
body([Part]) -> Part;
body(Parts) -> iolist_to_binary(lists:reverse(Parts)).

%% A line without its CRLF, or what is there of it. A bare LF ends none, a bare CR is in none.
line(Held, Data, MaxBytes) ->
    Bytes = <<Held/binary, Data/binary>>,
    case binary:match(Bytes, [<<"\r">>, <<"\n">>]) of
        {Size, 1} when Size > MaxBytes ->
            error;
        {Size, 1} ->
            case Bytes of
                <<Line:Size/binary, "\r\n", Rest/binary>> -> {line, Line, Rest};
                <<_:Size/binary, "\r">> -> {held, Bytes};
                _ -> error
            end;
        nomatch when byte_size(Bytes) > MaxBytes ->
            error;
        nomatch ->
            {held, Bytes}
    end.

chunk_size(Line) ->
    {Digits, Rest} = split_digits(Line, 0),
    case Digits =/= <<>> andalso is_extension(Rest) of
        true -> bounded(binary_to_integer(Digits, 16));
        false -> error
    end.

bounded(Size) when Size =< ?MAX_SIZE -> {ok, Size};
bounded(_) -> error.

split_digits(Line, Count) when Count < ?MAX_SIZE_DIGITS, Count < byte_size(Line) ->
    case is_digit(binary:at(Line, Count)) of
        true -> split_digits(Line, Count + 1);
        false -> split_binary(Line, Count)
    end;
split_digits(Line, Count) ->
    split_binary(Line, Count).

is_digit(C) when C >= $0, C =< $9 -> true;
is_digit(C) when C >= $a, C =< $f -> true;
is_digit(C) -> C >= $A andalso C =< $F.

%% Space is allowed before an extension, and sent without one by peers that fill up a fixed width.
is_extension(<<>>) -> true;
is_extension(<<C, Rest/binary>>) when C =:= $\s; C =:= $\t -> is_extension(Rest);
is_extension(<<$;, Rest/binary>>) -> is_text(Rest) andalso is_quoted_well(Rest, outside);
is_extension(_) -> false.

%% An open quotation mark, and another decoder could look for its end in what follows.
is_quoted_well(<<>>, State) -> State =:= outside;
is_quoted_well(<<$", Rest/binary>>, outside) -> is_quoted_well(Rest, quoted);
is_quoted_well(<<$", Rest/binary>>, quoted) -> is_quoted_well(Rest, outside);
is_quoted_well(<<$\\, _, Rest/binary>>, quoted) -> is_quoted_well(Rest, quoted);
is_quoted_well(<<_, Rest/binary>>, State) -> is_quoted_well(Rest, State).

is_field(Line) ->
    case binary:match(Line, <<":">>) of
        {Size, 1} when Size > 0 -> is_text(Line) andalso is_name(binary:part(Line, 0, Size));
        _ -> false
    end.

is_name(<<C, Rest/binary>>) when C > $\s, C < 127 -> is_name(Rest);
is_name(Rest) -> Rest =:= <<>>.

is_text(<<C, Rest/binary>>) when C >= $\s, C =/= 127; C =:= $\t -> is_text(Rest);
is_text(Rest) -> Rest =:= <<>>.
