#!/usr/bin/env escript
%%! -noinput +fnu
%% SPDX-License-Identifier: Apache-2.0
%%
%% Answers questions about terms, for the tests of the Python codec.
%%
%% A packet is the question, 16 bytes, and items, each with four bytes of length in front; so
%% is the answer, without the question. -noinput leaves the descriptors to our port.
-mode(compile).

main([]) ->
    Port = open_port({fd, 0, 1}, [binary, {packet, 4}, eof]),
    loop(Port).

loop(Port) ->
    receive
        {Port, {data, <<Question:16/binary, Items/binary>>}} ->
            Answer = answer_to(string:trim(binary_to_list(Question))),
            Answers = [with_length(Answer(Item)) || <<L:32, Item:L/binary>> <= Items],
            true = port_command(Port, Answers),
            loop(Port);
        {Port, eof} ->
            halt(0)
    end.

with_length(Item) ->
    [<<(byte_size(Item)):32>>, Item].

%% Does this source text, and these bytes behind it, mean the same term?
answer_to("same_as_text") ->
    fun(<<Length:32, Text:Length/binary, Bytes/binary>>) ->
            Expected = parse(Text),
            case binary_to_term(Bytes, [used]) of
                {Expected, Used} when Used =:= byte_size(Bytes) -> <<"yes">>;
                {Other, _} -> format("~0tp", [Other])
            end
    end;
%% The bytes of a source text, in a form that is named in front of it.
answer_to("encode") ->
    fun(<<Form, Text/binary>>) -> term_to_binary(parse(Text), options(Form)) end;
%% A random term's bytes, by a seed.
answer_to("random") ->
    fun(<<Form, Seed:32>>) ->
            _ = rand:seed(exsss, Seed),
            term_to_binary(random(5), options(Form))
    end;
%% Are two encodings of the same term?
answer_to("same") ->
    fun(<<Length:32, One:Length/binary, Other/binary>>) ->
            case binary_to_term(One) =:= binary_to_term(Other) of
                true -> <<"yes">>;
                false -> format("~0tp / ~0tp", [binary_to_term(One), binary_to_term(Other)])
            end
    end;
%% Are these the bytes of a term, and nothing else?
answer_to("is_term") ->
    fun(Bytes) ->
            try binary_to_term(Bytes, [used]) of
                {_, Used} when Used =:= byte_size(Bytes) -> <<"yes">>;
                {_, _} -> <<"no">>
            catch
                error:badarg -> <<"no">>
            end
    end.

format(Format, Arguments) ->
    unicode:characters_to_binary(io_lib:format(Format, Arguments)).

parse(Text) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text) ++ "."),
    {ok, Term} = erl_parse:parse_term(Tokens),
    Term.

options($0) -> [{minor_version, 0}];
options($1) -> [{minor_version, 1}];
options($2) -> [{minor_version, 2}];
options($c) -> [compressed];
options($9) -> [{compressed, 9}, {minor_version, 2}].

%% Terms of every kind that have no key which Python can't tell from another.

random(Depth) ->
    case rand:uniform(if Depth > 0 -> 16; true -> 9 end) of
        1 -> random_atom();
        2 -> rand:uniform(512) - 256;
        3 -> (rand:uniform(1 bsl 40) - (1 bsl 39)) bsl (rand:uniform(3000) - 1);
        4 -> (rand:uniform() - 0.5) * math:pow(10, rand:uniform(600) - 300);
        5 -> rand:bytes(rand:uniform(20) - 1);
        6 -> <<"gr", 195, 182, 195, 159, "e">>;
        7 -> Bits = rand:uniform(70), <<(rand:uniform(1 bsl Bits) - 1):Bits>>;
        8 -> opaque(rand:uniform(6));
        9 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(10))];
        10 -> [];
        N when N < 13 -> randoms(Depth);
        13 -> randoms(Depth) ++ random_tail();
        14 -> list_to_tuple(randoms(Depth));
        15 -> erlang:make_tuple(rand:uniform(300), random(0));
        16 -> maps:from_list([{random_key(Depth - 1), random(Depth - 1)}
                              || _ <- lists:seq(1, rand:uniform(40))])
    end.

randoms(Depth) ->
    [random(Depth - 1) || _ <- lists:seq(1, rand:uniform(5))].

random_tail() ->
    element(rand:uniform(3), {tail, 1.5, {}}).

random_atom() ->
    Atoms = {ok, true, false, undefined, nil, '', 'größe', '日本', list_to_atom(lists:duplicate(255, $a))},
    element(rand:uniform(tuple_size(Atoms)), Atoms).

random_key(Depth) ->
    case rand:uniform(if Depth > 0 -> 8; true -> 4 end) of
        1 -> element(rand:uniform(4), {ok, undefined, '日本', nil});
        2 -> rand:uniform(1000000) + 1;
        3 -> rand:bytes(rand:uniform(10) - 1);
        4 -> <<1:3>>;
        5 -> [random_key(Depth - 1) || _ <- lists:seq(1, 3)];
        6 -> {random_key(Depth - 1), random_key(Depth - 1)};
        7 -> #{random_key(Depth - 1) => random_key(Depth - 1)};
        8 -> [random_key(Depth - 1) | tail]
    end.

opaque(1) -> self();
opaque(2) -> make_ref();
opaque(3) -> hd(erlang:ports());
opaque(4) -> fun lists:map/2;
opaque(5) -> X = rand:uniform(100), fun(Y) -> {X, Y} end;
opaque(6) -> binary_to_term(<<131, 88, 119, 5, "a@far", 7:32, 8:32, 9:32>>).
