%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_protocol_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([batch_is_one_list/1]).
-export([batches_in_both_directions/1]).
-export([empty_batch/1]).
-export([every_message_of_a_worker/1]).
-export([wrong_values/1]).
-export([messages_of_the_node_are_refused/1]).
-export([one_wrong_message_spoils_the_batch/1]).
-export([not_a_list/1]).
-export([bytes_that_make_no_term/1]).
-export([trailing_bytes/1]).
-export([compressed/1]).
-export([atoms_are_not_made/1]).
-export([known_atoms_come_through/1]).
-export([first_bytes_are_bounded/1]).
-export([golden_packets_of_workers/1]).
-export([golden_packets_of_the_node/1]).
-export([malformed_golden_packets/1]).
-export([large_bodies_are_not_copied/1]).
-export([part_of_a_large_body_is_not_copied/1]).
-export([almost_a_part_of_a_body/1]).
-export([parts_are_joined/1]).

all() ->
    [
        batch_is_one_list,
        batches_in_both_directions,
        empty_batch,
        every_message_of_a_worker,
        wrong_values,
        messages_of_the_node_are_refused,
        one_wrong_message_spoils_the_batch,
        not_a_list,
        bytes_that_make_no_term,
        trailing_bytes,
        compressed,
        atoms_are_not_made,
        known_atoms_come_through,
        first_bytes_are_bounded,
        golden_packets_of_workers,
        golden_packets_of_the_node,
        malformed_golden_packets,
        large_bodies_are_not_copied,
        part_of_a_large_body_is_not_copied,
        almost_a_part_of_a_body,
        parts_are_joined
    ].

-define(NAME_OF_NO_ATOM, "hornbeam_protocol_no_such_atom").

%% What the node sends is one term: the list of the messages, in their order.
batch_is_one_list(_) ->
    Messages = [
        {configure, #{app => <<"app:app">>, window => 65536}},
        {request, 1, {<<"GET">>, <<"http">>, <<"1.1">>, <<"/">>, <<>>, [], undefined,
                      {<<"127.0.0.1">>, 80}, #{}}, <<>>, false},
        {body, 1, binary:copy(<<"x">>, 70000), true},
        {ack, 1, 16384},
        {opened, 1},
        {kept, 1},
        {refused, 2, enoent, 0},
        {disconnect, 1},
        {cancel, 1},
        {websocket, 2, {<<"GET">>, <<"ws">>, <<"1.1">>, <<"/">>, <<>>, [], undefined,
                        {<<"127.0.0.1">>, 80}}, [<<"chat">>]},
        {message, 2, text, <<"text">>},
        {message, 2, binary, <<0, 255>>},
        {closed, 2, 1006, <<>>},
        {reply, 1, ok, 5},
        {reply, 2, error, {not_an_integer, #{}}},
        {publish, <<"topic">>, <<131, 97, 1>>},
        {dropped, 7},
        {invoke, 1, <<"path">>, undefined, <<131, 106>>, <<131, 116, 0:32>>, call},
        {invoke_credit, 1, 16},
        {invoke_cancel, 1},
        {item, 2, <<131, 97, 1>>},
        {stream_end, 2},
        {stream_error, 2, {service_down, #{path => <<"path">>}}},
        {ping, 0},
        {shutdown, infinity}
    ],
    ?assertEqual(Messages, binary_to_term(packet(Messages))).

%% A batch of any length decodes to what it was made of.
batches_in_both_directions(_) ->
    [
        begin
            Messages = [{data, Id, <<Id:32>>} || Id <- lists:seq(1, Count)],
            ?assertEqual({ok, Messages}, hornbeam_protocol:decode(packet(Messages)))
        end
     || Count <- [1, 2, 255, 256, 70000]
    ].

%% Nothing may be said.
empty_batch(_) ->
    ?assertEqual({ok, []}, hornbeam_protocol:decode(<<131, 106>>)),
    ?assertEqual({ok, []}, hornbeam_protocol:decode(<<131, 108, 0:32, 106>>)).

%% Each form of the reference is taken.
every_message_of_a_worker(_) ->
    [?assertEqual({ok, [Message]}, decode_one(Message)) || Message <- messages()].

%% Each element of each form is checked for its type and range.
wrong_values(_) ->
    Wrong = [
        {ready, []},
        {failed, <<"name">>, #{}},
        {failed, app_not_found, []},
        {pong, <<"1">>},
        {stopped, ok},
        {log, <<"info">>, #{}},
        {log, info, []},
        {response, <<"1">>, 200, [], <<>>},
        {response, 1, 99, [], <<>>},
        {response, 1, 1000, [], <<>>},
        {response, 1, <<"200">>, [], <<>>},
        {response, 1, 200, [{<<"a">>}], <<>>},
        {response, 1, 200, [{"a", <<"b">>}], <<>>},
        {response, 1, 200, [{<<"a">>, b}], <<>>},
        {response, 1, 200, [{<<"a">>, <<"b">>} | x], <<>>},
        {response, 1, 200, #{}, <<>>},
        {response, 1, 200, [], "body"},
        {start, 1, 200, [], undefined},
        {data, 1, [<<"x">>]},
        {last, 1, undefined},
        {last, x, <<>>},
        {file, x, {200, []}, <<"/a">>, 0, undefined},
        {file, 1, {99, []}, <<"/a">>, 0, undefined},
        {file, 1, {200, x}, <<"/a">>, 0, undefined},
        {file, 1, {200}, <<"/a">>, 0, undefined},
        {file, 1, {200, []}, "/a", 0, undefined},
        {file, 1, undefined, undefined, 0, undefined},
        {file, 1, undefined, <<"/a">>, -1, undefined},
        {file, 1, {200, []}, <<"/a">>, 0, -1},
        {file, 1, undefined, <<"/a">>, 0, all},
        {trailers, 1, x},
        {trailers, 1.0, []},
        {inform, 1, 103, x},
        {abort, x},
        {credit, 1, -1},
        {credit, 1, 1.0},
        {waiting, 1},
        {waiting, 1, -1},
        {waiting, 1, undefined},
        {done, <<>>},
        {accept, x, undefined, []},
        {accept, 1, chat, []},
        {accept, 1, <<"chat">>, #{}},
        {accept, 1, undefined, [{<<"a">>}]},
        {accept, 1, undefined},
        {message, x, text, <<>>},
        {message, 1, ping, <<>>},
        {message, 1, <<"text">>, <<>>},
        {message, 1, text, "text"},
        {message, 1, binary, undefined},
        {close, x, 1000, <<>>},
        {close, 1, 999, <<>>},
        {close, 1, 5000, <<>>},
        {close, 1, 1000.0, <<>>},
        {close, 1, 1000, undefined},
        {close, 1, 1000, binary:copy(<<"x">>, 124)},
        {call, 1, <<"state_get">>, {}},
        {call, 1, state_get, []},
        {call, x, state_get, {}},
        {cast, state_get, []},
        {result, 1, ok, 5},
        {result, x, ok, <<131, 97, 1>>},
        {result, 1, error, #{class => <<"ValueError">>, reason => <<"no">>}},
        {result, 1, error, #{class => <<"ValueError">>, reason => no, stack => <<>>}},
        {result, 1, other, <<131, 97, 1>>},
        {produce, 1, undefined},
        {produce, x, <<131, 97, 1>>},
        {done},
        {done, 1, 2},
        done,
        [],
        1
    ],
    [?assertMatch({Message, {error, {malformed, _}}}, {Message, decode_one(Message)})
     || Message <- Wrong].

%% A worker may not say what only the node says.
messages_of_the_node_are_refused(_) ->
    [
        ?assertMatch({error, {malformed, _}}, decode_one(Message))
     || Message <- [
            {configure, #{}},
            {request, 1, {}, <<>>, false},
            {body, 1, <<>>, false},
            {ack, 1, 1},
            {disconnect, 1},
            {cancel, 1},
            {websocket, 1, {}, []},
            {closed, 1, 1000, <<>>},
            {reply, 1, ok, 1},
            {ping, 1},
            {publish, <<"topic">>, <<131, 97, 1>>},
            {invoke_cancel, 1},
            {stream_end, 1},
            {shutdown, 1}
        ]
    ].

%% No message of a packet is believed when one of them makes no sense.
one_wrong_message_spoils_the_batch(_) ->
    Messages = [{done, 1}, {done, 2}, {bogus, 3}],
    ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(packet(Messages))).

%% A batch is a proper list: no other term, no improper one, no string in disguise.
not_a_list(_) ->
    Terms = [{done, 1}, #{}, 1, <<>>, done, [{done, 1} | x], "abc", [[{done, 1}]]],
    [
        ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(term_to_binary(Term)))
     || Term <- Terms
    ].

%% Whatever the bytes are, the answer is an error.
bytes_that_make_no_term(_) ->
    Packet = packet([{response, 1, 200, [{<<"a">>, <<"b">>}], <<"body">>}]),
    Truncated = [binary:part(Packet, 0, Size) || Size <- lists:seq(0, byte_size(Packet) - 1)],
    Others = [
        <<130, 106>>,
        <<131>>,
        <<131, 255>>,
        <<131, 108, 16#FFFFFFFF:32, 106>>,
        <<131, 109, 16#FFFFFFFF:32, "x">>,
        <<131, 104, 255>>,
        <<"GET / HTTP/1.1\r\n">>
    ],
    [
        ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(Bytes))
     || Bytes <- Truncated ++ Others
    ].

%% A packet is one term and nothing more.
trailing_bytes(_) ->
    Packet = packet([{done, 1}]),
    ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(<<Packet/binary, 0>>)),
    Twice = <<Packet/binary, Packet/binary>>,
    ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(Twice)).

%% A few bytes cannot become a gigabyte: nothing is inflated.
compressed(_) ->
    Term = [{data, 1, binary:copy(<<0>>, 100000)}],
    ?assertMatch(
        {error, {malformed, <<131, 80, _/binary>>}},
        hornbeam_protocol:decode(term_to_binary(Term, [compressed]))
    ).

%% The table of atoms cannot be filled from outside.
atoms_are_not_made(_) ->
    Name = list_to_binary(?NAME_OF_NO_ATOM),
    Message = <<104, 2, 119, (byte_size(Name)), Name/binary, 97, 1>>,
    Packet = iolist_to_binary(hornbeam_protocol:batch([Message])),
    ?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(Packet)),
    ?assertError(badarg, binary_to_existing_atom(Name)).

%% Every name of a fact or a failure that the reference has is there before it is needed.
known_atoms_come_through(_) ->
    Names = hornbeam_protocol:atoms(),
    ?assertEqual(length(Names), length(lists:usort(Names))),
    Reference = [
        app_not_found, app_import_failed, app_not_callable, loop_unavailable, chdir_failed,
        lifespan_unsupported, lifespan_failed, startup_timeout, worker_class_unsupported,
        app, message, traceback, type, loop, chdir, timeout_ms, worker_class, os_pid, python,
        codec, lifespan, request_id, state_get, state_set, state_incr, state_delete,
        state_get_multi, state_set_multi, state_keys, state_add, state_cas, state_pop, publish,
        subscribe, unsubscribe, call, cast, rpc_call, rpc_cast, nodes, node, ping, connect,
        register_hook, unregister_hook, execute, stream, stream_credit, stream_cancel, result,
        produce, ok, error, infinity, class, reason, stack, text, binary,
        attach, detach, close, drop_oldest, not_open
    ],
    ?assertEqual([], Reference -- Names).

%% Of a packet that makes no sense only the beginning is kept.
first_bytes_are_bounded(_) ->
    [
        ?assertEqual(
            {error, {malformed, binary:copy(<<"x">>, min(Size, 64))}},
            hornbeam_protocol:decode(binary:copy(<<"x">>, Size))
        )
     || Size <- [0, 1, 63, 64, 65, 100000]
    ].

%% The packets that the Python side is tested with are those that this side reads.
golden_packets_of_workers(_) ->
    Packets = golden_of(worker),
    ?assertNotEqual([], Packets),
    [
        ?assertEqual({Name, {ok, Messages}}, {Name, hornbeam_protocol:decode(bytes(File))})
     || {Name, File, Messages} <- Packets
    ].

%% And those that it is given are what this side writes.
golden_packets_of_the_node(_) ->
    Packets = golden_of(node),
    ?assertNotEqual([], Packets),
    [
        ?assertEqual({Name, Messages}, {Name, binary_to_term(bytes(File))})
     || {Name, File, Messages} <- Packets
    ].

%% What the Python side refuses is refused here.
malformed_golden_packets(_) ->
    Packets = golden("malformed.term"),
    ?assertNotEqual([], Packets),
    [
        begin
            Result = hornbeam_protocol:decode(bytes(File)),
            ?assertMatch({_, _, {error, {malformed, _}}}, {Name, Why, Result})
        end
     || {Name, any, File, {why, Why}} <- Packets
    ].

%% Internal.

golden_of(Sender) ->
    [
        {Name, File, Messages}
     || {Name, From, File, {messages, Messages}} <- golden("protocol.term"), From =:= Sender
    ].

golden(File) ->
    {ok, Entries} = file:consult(in_vectors(File)),
    Entries.

bytes(File) ->
    {ok, Bytes} = file:read_file(in_vectors(File)),
    Bytes.

in_vectors(File) ->
    Root = filename:dirname(hornbeam_test_server:source_folder()),
    filename:join([Root, "tests", "vectors", File]).

messages() ->
    Headers = [{<<"content-type">>, <<"text/plain">>}, {<<"a">>, <<>>}],
    [
        {ready, #{os_pid => 1, python => <<"3.11.7">>, codec => c}},
        {failed, app_not_found, #{app => <<"app:app">>, message => <<"no">>}},
        {pong, 1},
        {stopped, #{lifespan => complete}},
        {log, warning, #{message => <<"text">>, request_id => 1}},
        {response, 1, 200, Headers, <<"body">>},
        {response, 1, 100, [], <<>>},
        {response, 1 bsl 70, 999, [], <<>>},
        {start, 1, 200, Headers, <<>>},
        {data, 1, <<"data">>},
        {last, 1, <<>>},
        {file, 1, {200, Headers}, <<"/a">>, 0, undefined},
        {file, 1, undefined, <<"/a">>, 5, 1 bsl 40},
        {trailers, 1, Headers},
        {inform, 1, 103, Headers},
        {abort, 1},
        {credit, 1, 0},
        {waiting, 1, 0},
        {done, 1},
        {accept, 1, undefined, []},
        {accept, 1, <<"chat">>, Headers},
        {message, 1, text, <<"text">>},
        {message, 1, binary, <<>>},
        {close, 1, 1000, <<>>},
        {close, 1, 4999, binary:copy(<<"x">>, 123)},
        {call, 1, state_get, {<<"key">>}},
        {cast, state_set, {<<"key">>, <<131, 97, 1>>, undefined}},
        {result, 1, ok, <<131, 97, 1>>},
        {result, 1, error, #{class => <<"ValueError">>, reason => <<"no">>, stack => <<>>}},
        {produce, 1, <<131, 97, 1>>}
    ].

packet(Messages) ->
    Encoded = [hornbeam_protocol:encode(Message) || Message <- Messages],
    iolist_to_binary(hornbeam_protocol:batch(Encoded)).

decode_one(Message) ->
    hornbeam_protocol:decode(term_to_binary([Message])).

%% Whatever its size a message has the same bytes; from some size on the body is a piece of its own.
large_bodies_are_not_copied(_) ->
    Scope = {<<"PUT">>, <<"http">>, <<"1.1">>, <<"/">>, <<>>, [], undefined,
             {<<"127.0.0.1">>, 80}, #{}},
    [begin
        Data = binary:copy(<<"x">>, Size),
        Encoded = hornbeam_protocol:encode(Message),
        <<131, Expected/binary>> = term_to_binary(Message),
        ?assertEqual(Expected, iolist_to_binary(Encoded)),
        ?assertEqual(Size > 4096, is_list(Encoded) andalso lists:member(Data, Encoded))
     end || Size <- [0, 64, 4096, 4097, 65536],
            Message <- [{body, 1, binary:copy(<<"x">>, Size), true},
                        {request, 1, Scope, binary:copy(<<"x">>, Size), false}]].

%% As parts of large bodies come, the packet itself is what goes to the socket.
part_of_a_large_body_is_not_copied(_) ->
    Data = binary:copy(<<"x">>, 65000),
    Packet = part_packet(Data),
    {ok, [{data, 70000, Part}]} = hornbeam_protocol:decode(Packet),
    ?assertEqual(Data, Part),
    ?assertEqual(byte_size(Packet), binary:referenced_byte_size(Part)).

%% What differs in a byte from such a packet is what the decoder of terms takes it for.
almost_a_part_of_a_body(_) ->
    Packet = part_packet(<<"abc">>),
    ?assertEqual({ok, [{data, 70000, <<"abc">>}]}, hornbeam_protocol:decode(Packet)),
    [begin
        <<Before:At/binary, Byte, After/binary>> = Packet,
        Other = <<Before/binary, (Byte bxor Bits), After/binary>>,
        ?assertEqual({At, Bits, slow(Other)}, {At, Bits, result(hornbeam_protocol:decode(Other))})
     end || At <- lists:seq(0, byte_size(Packet) - 1), Bits <- lists:seq(0, 255)],
    [?assertEqual({ok, Messages}, hornbeam_protocol:decode(packet(Messages)))
     || Messages <- [[{data, Id, <<"abc">>}] || Id <- [1, 255, 256, 16#7FFFFFFF, 16#80000000, 1 bsl 70]]
                    ++ [[{data, 70000, <<>>}], [{last, 70000, <<"abc">>}]]],
    [?assertMatch({error, {malformed, _}}, hornbeam_protocol:decode(Other))
     || Other <- [<<Packet/binary, 106>>, binary:part(Packet, 0, byte_size(Packet) - 1)]].

%% As Python writes it; OTP 25 still writes atoms in another form.
part_packet(Data) ->
    <<131, 108, 1:32, 104, 3, 119, 4, "data", 98, 70000:32, 109, (byte_size(Data)):32, Data/binary, 106>>.

%% Two messages in the list take the way of all.
slow(<<131, 108, 1:32, Rest/binary>>) ->
    Bytes = byte_size(Rest) - 1,
    case Rest of
        <<Message:Bytes/binary, 106>> ->
            case hornbeam_protocol:decode(<<131, 108, 2:32, Message/binary, Message/binary, 106>>) of
                {ok, [First, First]} -> {ok, [First]};
                {ok, _} -> malformed;
                {error, _} -> malformed
            end;
        _ ->
            malformed
    end;
slow(_) ->
    malformed.

result({error, {malformed, _}}) -> malformed;
result(Result) -> Result.

%% Parts of one body, as long as nothing else is between them.
parts_are_joined(_) ->
    Start = {start, 1, 200, [], <<"0">>},
    ?assertEqual(
        [Start, {data, 1, <<"abc">>}, {data, 2, <<"d">>}, {last, 1, <<"ef">>}, {done, 1}],
        hornbeam_protocol:join(
            [Start, {data, 1, <<"a">>}, {data, 1, <<"b">>}, {data, 1, <<"c">>},
             {data, 2, <<"d">>}, {data, 1, <<"e">>}, {last, 1, <<"f">>}, {done, 1}])),
    [?assertEqual(Messages, hornbeam_protocol:join(Messages))
     || Messages <- [[], [Start], [{data, 1, <<"a">>}, {pong, 1}, {data, 1, <<"b">>}],
                     [{last, 1, <<"a">>}, {data, 1, <<"b">>}],
                     [{data, 1, <<"a">>}, {trailers, 1, []}],
                     [{message, 1, text, <<"a">>}, {message, 1, text, <<"b">>}]]].
