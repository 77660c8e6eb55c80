%% SPDX-License-Identifier: Apache-2.0

%% @private The body of one response: from what the worker sends, or a file has, to Cowboy's
%% commands, and back what the client has taken.
%%
%% Cowboy's `send' returns when the driver has taken the bytes and blocks this process while the
%% client does not read; `{sent, Bytes}', a message to the own stream, comes back only after that.
%% Then the body's source ({@link hornbeam_body_source}) is asked for more, which for a worker means
%% that the bytes are acknowledged. On HTTP/2 they may be in Cowboy's queue by then: see {@link
%% hornbeam_backlog}.
%%
%% Each function gives the commands and what is to happen next.
-module(hornbeam_response_body).

%% API
-export([new/0]).
-export([start/4]).
-export([file/5]).
-export([is_bodiless/1]).
-export([data/5]).
-export([lend/4]).
-export([written/2]).
-export([finish/3]).
-export([sent/4]).
-export([filled/2]).
-export([drained/3]).
-export([timed_out/3]).
-export([expect_end/2]).
-export([force_end/3]).
-export([cut/2]).
-export([close/1]).

-export_type([body/0, step/0, head/0]).

-record(body, {
    %% What ends it is the end of the connection.
    is_close_delimited = false :: boolean(),
    %% The response goes without one: HEAD, 204, 304.
    is_bodiless = false :: boolean(),
    %% Its length was announced.
    is_sized = false :: boolean(),
    %% The worker writes it to the socket itself.
    is_lent = false :: boolean(),
    %% Bytes written to the socket of which the source does not know yet.
    unacked = 0 :: non_neg_integer(),
    source = worker :: hornbeam_body_source:source(),
    %% HTTP/2: what of the response waits for the client's window.
    backlog = hornbeam_backlog:new() :: hornbeam_backlog:backlog()
}).

-opaque body() :: #body{}.

-type step() ::
    {Next :: go_on | finish | cut | {fail, Why :: binary()}, cowboy_stream:commands(), body()}.
%% What comes after the commands: the response goes on, it has ended, its connection is no more, or
%% it cannot be completed.

-type head() :: {Status :: 100..999, cowboy:http_headers()}.

-type request() :: hornbeam_request:request().
-type dispatch() :: hornbeam_dispatch:dispatch().

-spec new() -> body().
new() ->
    #body{}.

%%% The beginning

%% @doc The head of a response whose body comes in parts.
-spec start(Status :: 100..999, cowboy:http_headers(), request(), body()) ->
    {cowboy_stream:commands(), body()}.
start(Status, Headers0, Request = #{version := Version, method := Method}, Body) ->
    Headers = hornbeam_response:streamed(Status, Headers0),
    IsBodiless = not hornbeam_response:has_body(Status, Method),
    {[head(IsBodiless, hornbeam_response:status(Status), Headers, Request)],
     Body#body{is_bodiless = IsBodiless,
               is_sized = is_map_key(<<"content-length">>, Headers),
               is_close_delimited = is_close_delimited(Headers, Version)}}.

%% On HTTP/2 the head ends a stream that has no body: Cowboy sends it so for HEAD in any case, and
%% an end of its own would come on top of that.
head(true, Status, Headers, #{version := 'HTTP/2'}) -> {response, Status, Headers, <<>>};
head(_, Status, Headers, _) -> {headers, Status, Headers}.

is_close_delimited(#{<<"content-length">> := _}, _) -> false;
is_close_delimited(_, Version) -> Version =:= 'HTTP/1.0'.

%% @doc A file is the body, or the rest of one whose head has gone out (`undefined').
-spec file(head() | undefined, Opened, request(), dispatch(), body()) -> step()
    when Opened :: {whole, binary()} | {ok, hornbeam_file:file(), Bytes :: pos_integer()}.
file(undefined, {whole, Data}, Request, Dispatch, Body) ->
    data(fin, Data, Request, Dispatch, Body);
file({Status, Headers}, {whole, Data}, #{method := Method}, _, Body) ->
    Map = hornbeam_response:sized(Status, Headers, byte_size(Data)),
    {finish, [hornbeam_response:whole(Status, Map, Data, Method)], Body};
file(undefined, {ok, File, _}, Request, Dispatch, Body = #body{is_bodiless = true}) ->
    ok = hornbeam_file:close(File),
    data(fin, <<>>, Request, Dispatch, Body);
file(undefined, {ok, File, _}, Request, Dispatch, Body) ->
    Source = hornbeam_body_source:file({false, File}, Request),
    next(0, Request, Dispatch, Body#body{source = Source});
file({Status, Headers}, {ok, File, Bytes}, Request = #{method := Method}, Dispatch, Body) ->
    Map = hornbeam_response:sized(Status, Headers, Bytes),
    case hornbeam_response:has_body(Status, Method) of
        true ->
            whole_file({Status, Map}, File, Request, Dispatch, Body);
        false ->
            ok = hornbeam_file:close(File),
            {finish, [hornbeam_response:whole(Status, Map, <<>>, Method)], Body}
    end.

whole_file({Status, Headers}, File, Request, Dispatch, Body0) ->
    Source = hornbeam_body_source:file({true, File}, Request),
    Body = Body0#body{source = Source},
    case hornbeam_body_source:is_direct(Source) of
        true ->
            ok = hornbeam_request:tell({sent, 0}, Request),
            {go_on, [{response, hornbeam_response:status(Status), Headers, <<>>}], Body};
        false ->
            {Next, Commands, Read} = next(0, Request, Dispatch, Body),
            {Next, [{headers, hornbeam_response:status(Status), Headers} | Commands], Read}
    end.

-spec is_bodiless(body()) -> boolean().
is_bodiless(#body{is_bodiless = IsBodiless}) ->
    IsBodiless.

%%% The parts

%% @doc A part. Bytes that the client does not get are acknowledged like others: the application
%% should not have to know.
-spec data(cowboy_stream:fin(), binary(), request(), dispatch(), body()) -> step().
data(IsFin, Data, Request, Dispatch, Body = #body{is_bodiless = true}) ->
    ok = hornbeam_dispatch:acknowledge(byte_size(Data), Dispatch),
    {next_of(IsFin), bodiless(IsFin, Request), Body};
data(nofin, <<>>, _, _, Body) ->
    {go_on, [], Body};
data(fin, <<>>, Request, _, Body) ->
    Commands = [{data, fin, <<>>}],
    ok = expect_end(Commands, Request),
    {finish, Commands, Body};
data(fin, Data, _, _, Body = #body{unacked = Unacked}) ->
    {finish, [{data, fin, Data}], Body#body{unacked = Unacked + byte_size(Data)}};
data(nofin, Data, Request = #{server := #{window := Window}}, _, Body) ->
    #body{unacked = Unacked0} = Body,
    Unacked = Unacked0 + byte_size(Data),
    case Unacked >= Window div 4 of
        true ->
            %% Comes back after Cowboy has carried out the command below.
            ok = hornbeam_request:tell({sent, Unacked}, Request),
            {go_on, [{data, nofin, Data}], Body#body{unacked = 0}};
        false ->
            {go_on, [{data, nofin, Data}], Body#body{unacked = Unacked}}
    end.

%% @doc The worker wants to write the rest itself. It may, where whoever frames the response can be
%% told how much that was, and where nothing is between it and the socket.
-spec lend(hornbeam_lender:lender(), request(), dispatch(), body()) -> body().
lend(Lender, #{connection := Connection}, Dispatch, Body) ->
    Body#body{is_lent = hornbeam_dispatch:lend(to_lend(Connection, Body), Lender, Dispatch) =:= lent}.

to_lend(#{lends := true, socket := Socket}, #body{is_sized = true, is_bodiless = false}) -> Socket;
to_lend(_, _) -> undefined.

%% @doc It has written so much, and has let go of the socket.
-spec written(Bytes :: non_neg_integer(), body()) -> step().
written(Bytes, Body = #body{is_lent = true}) ->
    {go_on, [{set_options, #{written => Bytes}}], Body#body{is_lent = false}};
written(_, Body) ->
    {cut, [], Body}.

next_of(nofin) -> go_on;
next_of(fin) -> finish.

bodiless(fin, #{version := Version}) when Version =/= 'HTTP/2' -> [{data, fin, <<>>}];
bodiless(_, _) -> [].

%% @doc The commands that end a response with trailers, or what there is of them now.
-spec finish(cowboy_stream:commands(), request(), body()) -> {cowboy_stream:commands(), body()}.
finish(Commands, Request, Body = #body{backlog = Backlog}) ->
    case hornbeam_backlog:is_full(Backlog) of
        true ->
            {[], Body#body{backlog = hornbeam_backlog:hold(Commands, Backlog)}};
        false ->
            ok = expect_end(Commands, Request),
            {Commands, Body}
    end.

%%% What the client has taken

%% @doc So many bytes have been sent. On HTTP/2 what comes next waits until Cowboy's queue is empty.
-spec sent(Bytes :: non_neg_integer(), request(), dispatch(), body()) -> step().
sent(Bytes0, Request, Dispatch, Body0 = #body{backlog = Backlog0}) ->
    {Bytes, Backlog} = hornbeam_backlog:sent(Bytes0, Backlog0),
    Body = Body0#body{backlog = Backlog},
    case hornbeam_backlog:is_full(Backlog) of
        true -> {go_on, [], Body};
        false -> next(Bytes, Request, Dispatch, Body)
    end.

%% @doc HTTP/2: Cowboy begins to queue for want of window.
-spec filled(request(), body()) -> body().
filled(Request, Body = #body{backlog = Backlog}) ->
    {OutBytes, StartTimer} = send_clock(Request),
    Body#body{backlog = hornbeam_backlog:filled(OutBytes, StartTimer, Backlog)}.

%% @doc HTTP/2: Cowboy has sent all that it had queued.
-spec drained(request(), dispatch(), body()) -> step().
drained(Request, Dispatch, Body = #body{backlog = Backlog0}) ->
    {Bytes, Held, Backlog} = hornbeam_backlog:drained(Backlog0),
    ok = expect_end(Held, Request),
    %% What is held is an end of the worker's: behind it nothing comes.
    {Next, Commands, Rest} = next(Bytes, Request, Dispatch, Body#body{backlog = Backlog}),
    {Next, Held ++ Commands, Rest}.

%% @doc HTTP/2: `send_timeout' is up.
-spec timed_out(Name :: reference(), request(), body()) -> {going, body()} | stalled.
timed_out(Name, Request, Body = #body{backlog = Backlog0}) ->
    case hornbeam_backlog:expired(Name, send_clock(Request), Backlog0) of
        {going, Backlog} -> {going, Body#body{backlog = Backlog}};
        stalled -> stalled
    end.

%% What hornbeam_backlog measures the client by.
send_clock(Request = #{connection := Connection, server := #{send_timeout := TimeoutMs}}) ->
    StartTimer = fun
        (_) when TimeoutMs =:= infinity -> undefined;
        (Name) -> hornbeam_request:tell_after(TimeoutMs, {send_timeout, Name}, Request)
    end,
    {hornbeam_connection:out_bytes(Connection), StartTimer}.

next(Bytes, Request, Dispatch, Body = #body{source = Source0}) ->
    case hornbeam_body_source:next(Bytes, Dispatch, Source0) of
        wait ->
            {go_on, [], Body};
        {nofin, Data, Source} ->
            Sent = data(nofin, Data, Request, Dispatch, Body#body{source = Source}),
            ask_again(Sent, Request);
        {fin, Data} ->
            data(fin, Data, Request, Dispatch, Body#body{source = worker});
        {sent, Source} ->
            ok = hornbeam_request:tell({sent, 0}, Request),
            {go_on, [], Body#body{source = Source}};
        complete ->
            {finish, [], Body#body{source = worker}};
        closed ->
            {cut, [], Body};
        {failed, Why} ->
            {{fail, Why}, [], Body}
    end.

%% A source that waits to be asked is asked, however small the part was.
ask_again(Step = {_, _, #body{unacked = 0}}, _) ->
    Step;
ask_again({Next, Commands, Body = #body{unacked = Unacked}}, Request) ->
    ok = hornbeam_request:tell({sent, Unacked}, Request),
    {Next, Commands, Body#body{unacked = 0}}.

%%% The end

%% @doc HTTP/2: have the stream told after these commands, if it lives after them.
%%
%% Cowboy queues the end of a body also where nothing but its window is missing, which an end does
%% not need, and forgets it there. Where the stream lives after the commands, that is the case.
-spec expect_end(cowboy_stream:commands(), request()) -> ok.
expect_end([_ | _], Request = #{version := 'HTTP/2'}) ->
    hornbeam_request:tell(end_expected, Request);
expect_end(_, _) ->
    ok.

%% @doc HTTP/2: the stream lives after its end. When Cowboy has nothing of it in its queue, the end
%% is lost.
-spec force_end(IsRequestComplete :: boolean(), request(), body()) -> cowboy_stream:commands().
force_end(IsRequestComplete, Request, #body{backlog = Backlog}) ->
    case hornbeam_backlog:is_full(Backlog) of
        true ->
            [];
        false ->
            #{stream_id := StreamId, connection := Connection} = Request,
            ok = hornbeam_connection:end_stream(Connection, StreamId, IsRequestComplete),
            [{internal_error, ended, 'The response has ended.'}]
    end.

%% @doc Break the response off so that it does not look complete.
-spec cut(request(), body()) -> cowboy_stream:commands().
cut(#{version := 'HTTP/2'}, _) ->
    [{internal_error, response_cut, 'The response could not be completed.'}];
cut(#{connection := Connection}, #body{is_close_delimited = true}) ->
    hornbeam_connection:reset(Connection),
    [];
cut(#{connection := Connection}, _) ->
    hornbeam_connection:cut(Connection),
    [].

%% @doc The stream has ended.
-spec close(body()) -> ok.
close(#body{source = Source, backlog = Backlog}) ->
    ok = hornbeam_body_source:close(Source),
    hornbeam_backlog:stop(Backlog).
